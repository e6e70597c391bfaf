"""The paper's tables and figures as named grids of runs, at every scale; chapters 07 to 11 read what they recorded.

A cell of a grid is a label, for people, and a configuration, for the machine. The seed is added when it runs, and all
arms use the same ones. `convit-edu list` shows all.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from statistics import mean

from ..beyond.cnn import CNN
from ..beyond.initial_weights import STARTS
from ..beyond.recast import PatchCNN
from ..model import CONFIGS, ConViTSettings
from ..train import Recipe
from .run_config import RunConfig, with_defaults
from .scales import ARMS, LEARNING_RATES, Scale

SEARCH_SEEDS = 2
LATE = "DeiT, late class token"
STRENGTHS = (0.25, 1.0, 4.0)  # of `locality_grid`

# Where five seeds on a laptop spread too far: the pair of `size` and the two rows of `ablation` on few images whose
# difference in the paper, 0.8 and 2.8 points, they would have seen with a probability of 61 and 76 %. Chosen by that
# alone, whatever the difference was here. A convolutional teacher's 0.4 points would take more than a hundred seeds.
CLOSE_SIZES, CLOSE_ROWS = ("small",), ("b", "d")

# Chapters 10 and 11. Their arms have searches of their own, with as many rates for each, and this is what won them.
RECAST_RATES, STARTS_RATES = LEARNING_RATES["CNN"], LEARNING_RATES["ConViT"]
RECAST_GAINS = (0.42, 1.0)  # of `init_gain`: the paper's ratio, and twice and a half of it
RECAST_CHOSEN = {  # what goes on from the trained CNN has no start of its own
    "CNN": (2e-3, 1.0), "ConViT": (4e-3, 0.42), "CNN, trained on": (4e-3, None), "recast": (4e-3, None),
}  # fmt: skip
STARTS_CHOSEN = {"mimetic": 4e-3, "structured": 1e-3}
RECAST_STRENGTH = 8.0
RECAST_GATES = (0.73, 0.95, 1.0)  # where the gates of a recast network start; at 1 they stay


class NotSearched(ValueError):
    """The learning rates of a scale are not known yet."""


@dataclass(frozen=True)
class Settings:
    """What the recorded search has chosen: for every arm a learning rate and an `init_gain`, and the better DeiT.

    An arm that `gains` leaves out starts as the paper's networks do.
    """

    rates: dict[str, float]
    best_deit: str
    gains: dict[str, float] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((*self.rates.items(), self.best_deit, *self.gains.items()))

    def rate(self, arm: str) -> float:
        return self.rates[self.best_deit if arm == "DeiT" else arm]

    def gain(self, arm: str) -> float | None:
        return self.gains.get(self.best_deit if arm == "DeiT" else arm)


@dataclass(frozen=True)
class Cell:
    """One entry of a grid: what to call it and what to run."""

    label: dict
    config: RunConfig
    seeds: tuple[int, ...] | None = None  # where they are fixed; otherwise the scale or the reader says how many
    more: bool = False  # whether the scale has more seeds of it than of others

    def seeds_at(self, scale: Scale, asked: int | None = None) -> tuple[int, ...]:
        """The seeds to run: as many as a reader has asked for, or else as the scale has."""
        return self.seeds or tuple(range(asked or max(scale.seeds, self.more * scale.more_seeds)))


def trials(scale: Scale) -> list[tuple[str, float, float | None]]:
    """What `search` tries at a scale: arm, learning rate, `init_gain`. The CNN has its own start."""
    gains = {arm: (None,) if arm == "CNN" else scale.gains for arm in ARMS}
    return [(arm, rate, gain) for arm in ARMS for gain in gains[arm] for rate in scale.rates[arm]]


def scores(runs: list[dict], gain: float | None = None) -> dict[str, dict[float, float]]:
    """From the runs of a search: held-out accuracy in per cent by arm and learning rate, the mean over seeds.

    Of the trials with this `init_gain`. A run whose loss did not stay finite scores 0: such a rate is a bad one, not
    a missing one.
    """
    found: dict[str, dict[float, list[float]]] = {}
    for run in filter(_scored, runs):
        if run["label"].get("gain") == gain:
            by_rate = found.setdefault(run["label"]["arm"], {})
            by_rate.setdefault(run["label"]["lr"], []).append(run["result"]["accuracy"] if "result" in run else 0.0)
    return {arm: {rate: mean(found[arm][rate]) for rate in sorted(found[arm])} for arm in found}


def _scored(run: dict) -> bool:
    return "result" in run or run["error"].startswith("FloatingPointError")


def choose(runs: list[dict], scale: Scale) -> Settings:
    """The settings that won the recorded search. `NotSearched` if the search is missing or not complete."""
    tried = {
        (run["label"]["arm"], run["label"]["lr"], run["label"].get("gain"), run["seed"])
        for run in filter(_scored, runs)
    }
    if not {(*trial, seed) for trial in trials(scale) for seed in range(SEARCH_SEEDS)} <= tried:
        raise NotSearched(
            f"The learning rates of scale {scale.name} are not known yet; "
            f"first run: convit-edu run search --scale {scale.name}"
        )
    table = {gain: scores(runs, gain) for gain in (*scale.gains, None)}  # None: the CNN's
    best: dict[str, tuple[float, float, float | None]] = {}  # held-out accuracy, learning rate, gain
    for arm, rate, gain in trials(scale):
        if (found := table[gain][arm][rate]) > best.get(arm, (-1,))[0]:
            best[arm] = found, rate, gain
    better = max(("DeiT, equal heads", "DeiT, few heads"), key=lambda arm: best[arm][0])
    gains = {arm: gain for arm, (_, _, gain) in best.items() if gain is not None}
    return Settings({arm: rate for arm, (_, rate, _) in best.items()}, better, gains)


# --- configurations


class Grid:
    """Builds the cells of one scale."""

    def __init__(self, scale: Scale, settings: Settings | None):
        self.scale, self.settings = scale, settings

    def transformer(self, arm: str, **changes) -> dict:
        """The model of an arm: ConViT, or a DeiT of equal width, depth and size."""
        scale = self.scale
        few = changes.pop("few_heads", scale.few_heads)
        if "init_gain" not in changes:
            changes["init_gain"] = self.settings.gain(arm)
        model = CONFIGS[scale.model] | scale.changes | changes
        if arm.startswith("DeiT"):
            model["local_up_to_layer"] = 0
            if "DeiT, few heads" in (arm, self.settings.best_deit if arm == "DeiT" else None):
                model["num_heads"] = few
        return with_defaults(ConViTSettings, {"mixing": "gated"} | model)  # which class: see `RunConfig.build`

    def cnn(self) -> dict:
        base = CONFIGS[self.scale.model]
        given = dict(in_chans=base.get("in_chans", 3), num_classes=base["num_classes"], width=self.scale.cnn_width)
        return with_defaults(CNN, given)

    def cell(
        self,
        label: dict,
        arm: str = "ConViT",
        fraction: float = 1.0,
        freeze: str = "",
        recipe: dict | None = None,
        lr: float | None = None,
        held_out: bool = False,
        evaluations: int = 8,
        steps: int | None = None,
        seeds: tuple[int, ...] | None = None,
        more: bool = False,
        save: str = "",
        **changes,
    ) -> Cell:
        """A cell. `freeze` is "gate" (at 1/2, not trained) or "attention" (all of it, position only)."""
        scale = self.scale
        steps = steps or scale.steps
        full_recipe = dict(steps=steps, batch_size=scale.batch_size, warmup_steps=steps // 10, evaluations=evaluations)
        full_recipe |= scale.recipe | {"lr": lr or self.settings.rate(arm)} | (recipe or {})
        model = self.cnn() if arm == "CNN" else self.transformer(arm, **changes)
        # Non-locality, gates, masks and the shortcut, where the paper looks inside: all images, all steps.
        probe = arm != "CNN" and fraction == 1.0 and steps >= scale.steps and not held_out
        return Cell(label, RunConfig(
            data=scale.data, fraction=fraction, held_out=held_out, network="CNN" if arm == "CNN" else "ConViT",
            model=model, freeze=freeze, recipe=Recipe(**full_recipe), probe=probe, save=save,
            test_images=scale.test_images,
        ), seeds, more)  # fmt: skip

    @property
    def late_token(self) -> dict:
        """What makes a DeiT whose class token comes where a ConViT's does: after the GPSA layers."""
        model = CONFIGS[self.scale.model] | self.scale.changes
        return dict(arm="DeiT", class_token_at=model["local_up_to_layer"])

    # --- the experiments

    def search(self) -> list[Cell]:
        """Learning rates and starts: as many trials for every arm, scored on training images held out (a tenth)."""
        return [
            self.cell(
                {"arm": arm, "lr": lr} | ({"gain": gain} if gain else {}), arm, lr=lr, init_gain=gain,
                steps=self.scale.search_steps, **self._searched(SEARCH_SEEDS),
            )
            for arm, lr, gain in trials(self.scale)
        ]  # fmt: skip

    def sample_efficiency(self) -> list[Cell]:
        """Table 2, Fig 2: accuracy against the share of training images, at every budget of steps."""
        arms: dict[str, dict] = {arm: dict(arm=arm) for arm in ("ConViT", "DeiT", "CNN")}
        if self.scale.late_token:
            arms[LATE] = self.late_token
        return [
            self.cell({"arm": arm, "fraction": fraction, "steps": steps}, fraction=fraction, steps=steps, **what)
            for steps, fractions in self.scale.budgets.items()
            for fraction in fractions
            for arm, what in arms.items()
        ]

    def size(self) -> list[Cell]:
        """Table 1: equal pairs at three sizes, on all images."""
        return [
            self.cell({"size": size, "arm": arm}, arm, more=size in CLOSE_SIZES, **changes)
            for size, changes in self.scale.sizes.items()
            for arm in ("ConViT", "DeiT")
        ]

    def pair(self) -> list[Cell]:
        """ConViT and DeiT on all images: what the experiments that look inside share."""
        return [self.cell({"arm": arm}, arm) for arm in ("ConViT", "DeiT")]

    def dynamics(self) -> list[Cell]:
        """Fig 5, 6, 12 to 14: non-locality by layer and head, gates and accuracy over training."""
        larger = Grid(self.scale.larger, self.settings).pair() if self.scale.larger else []
        return self.pair() + [replace(cell, label=cell.label | {"data": cell.config.data}) for cell in larger]

    def masking(self) -> list[Cell]:
        """Tables 5 and 6: positions or content masked at test time. The runs of `dynamics`."""
        return self.pair()

    def metric(self) -> list[Cell]:
        """Non-locality on the true inputs of every layer against the published shortcut. The runs of `dynamics`."""
        return self.pair()

    def ablation(self) -> list[Cell]:
        """Table 3, rows a to g; and what the paper does not separate: late token, bias, each half of the start."""
        random = dict(positional_init=False, identity_values=False)
        table = {
            "a": dict(), "b": dict(freeze="gate"), "c": random, "d": dict(freeze="gate", **random),
            "e": dict(arm="DeiT"), "f": dict(freeze="attention"), "g": dict(freeze="attention", **random),
            LATE: self.late_token,
        }  # fmt: skip
        more = {
            "ConViT, qkv bias": dict(qkv_bias=True), "DeiT, qkv bias": dict(arm="DeiT", qkv_bias=True),
            "identity values alone": dict(positional_init=False),
            "positional start alone": dict(identity_values=False),
            "ConViT, 1 head": dict(num_heads=1),
            "DeiT, equal heads": dict(arm="DeiT, equal heads"), "DeiT, few heads": dict(arm="DeiT, few heads"),
        }  # fmt: skip
        small, full = self.scale.ablation_fractions
        close = [(row, small) for row in CLOSE_ROWS]
        return [
            self.cell({"row": row, "fraction": fraction}, fraction=fraction, more=(row, fraction) in close, **what)
            for fraction, rows in ((small, table | more), (full, table))
            for row, what in rows.items()
        ]

    def locality_grid(self) -> list[Cell]:
        """Fig 8: locality strength by number of GPSA layers, all models reading the mean of their tokens."""
        shared = dict(fraction=self.scale.grid_fraction, pool="mean")
        return [self.cell({"strength": None, "layers": 0}, **shared, local_up_to_layer=0)] + [
            self.cell(
                {"strength": strength, "layers": layers}, **shared, local_up_to_layer=layers, locality_strength=strength
            )
            for strength in STRENGTHS
            for layers in self.scale.grid_layers
        ]

    def psa(self) -> list[Cell]:
        """Fig 9: one softmax over both scores (Eq 4) against the gated sum of two (Eq 7)."""
        return [*self.pair(), self.cell({"arm": "PSA"}, mixing="single_softmax")]

    def checkpoints(self) -> list[Cell]:
        """A trained ConViT and its DeiT partner, for the chapters that look inside: seed 0 of `dynamics`."""
        return [self.cell({"arm": arm}, arm, save=arm.lower(), seeds=(0,)) for arm in ("ConViT", "DeiT")]

    def gates(self) -> list[Cell]:
        """Fig 6: what gates do with 20 times the learning rate of the rest, and in a training ten times as long."""
        return [
            self.cell({"gates": "as the rest"}),
            self.cell({"gates": "20 times the rate"}, recipe=dict(gate_speed=20.0)),
            self.cell({"gates": "ten times the steps"}, steps=self.scale.pilot_steps, evaluations=20, seeds=(0,)),
        ]

    def distillation(self) -> list[Cell]:
        """Table 4, Fig 10: DeiT and ConViT with and without a CNN as their teacher; without: the runs of `dynamics`."""
        teacher = self.cell({}, "CNN").config  # the same run as in `sample_efficiency`
        return [
            replace(cell, label=cell.label | {"teacher": name}, config=replace(cell.config, teacher=before))
            for name, before in (("none", None), ("CNN", teacher))
            for cell in self.pair()
        ]

    def search_recast(self) -> list[Cell]:
        """Learning rates for the arms of `recast`, and how large the matrices of the first two start; one seed."""
        return [
            self.recast_cell(
                {"arm": arm, "lr": lr} | ({"gain": gain} if gain else {}), arm, lr, gain, **self._searched(seeds=1)
            )
            for arm, (_, chosen) in RECAST_CHOSEN.items()
            for gain in (RECAST_GAINS if chosen else (None,)) for lr in RECAST_RATES
        ]  # fmt: skip

    def search_starts(self) -> list[Cell]:
        """Learning rates for the starts of `starts`: four for each."""
        shared = self._searched(SEARCH_SEEDS) | {"steps": self.scale.search_steps}
        return [
            self.start_cell({"arm": name, "lr": lr}, name, lr, **shared)
            for name in STARTS_CHOSEN for lr in STARTS_RATES
        ]  # fmt: skip

    def _searched(self, seeds: int) -> dict:
        """What the searches share: they look at the held-out images of `search`."""
        return dict(fraction=self.scale.search_fraction, held_out=True, evaluations=1, seeds=tuple(range(seeds)))

    def recast(self) -> list[Cell]:
        """A trained CNN recast as GPSA and set free, against the CNN trained on and a ConViT from scratch."""
        return [self.recast_cell({"arm": arm}, arm) for arm in ("CNN, trained on", "ConViT")] + [
            self.recast_cell({"arm": f"recast, gates from {gate:g}"}, "recast", gate=gate) for gate in RECAST_GATES
        ]

    def recast_cell(
        self, label: dict, arm: str, lr: float | None = None, gain: float | None = None,
        gate: float = RECAST_GATES[0], **given,
    ) -> Cell:  # fmt: skip
        """A cell of `recast`: arms "CNN" (what the others start from), "CNN, trained on", "recast", "ConViT"."""
        base = CONFIGS[self.scale.model] | self.scale.changes
        images = {name: base.get(name, default) for name, default in
                  (("img_size", 224), ("patch_size", 16), ("in_chans", 3), ("num_classes", 1000))}  # fmt: skip
        begun = gain or RECAST_CHOSEN["ConViT" if arm == "ConViT" else "CNN"][1]
        shape = images | self.scale.recast | {"init_gain": begun}
        first, then = self.scale.recast_steps
        steps = {"CNN": first, "ConViT": first + then}.get(arm, then)
        cell = self.cell(label, "CNN", lr=lr or RECAST_CHOSEN[arm][0], **given)
        config = replace(
            cell.config, recipe=replace(cell.config.recipe, steps=steps, warmup_steps=steps // 10),
            network="PatchCNN", model=with_defaults(PatchCNN, shape),
        )  # fmt: skip
        if arm in ("ConViT", "recast"):
            wide = shape | dict(value_dim=shape["embed_dim"], local_up_to_layer=shape["depth"], num_heads=9)
            wide |= {"locality_strength": RECAST_STRENGTH} if arm == "recast" else {}
            probe = not given.get("held_out", False)
            model = with_defaults(ConViTSettings, {"mixing": "gated"} | wide)
            config = replace(config, network="WideConViT", model=model, probe=probe)
        if arm in ("CNN, trained on", "recast"):
            config = replace(config, start=self.recast_cell({}, "CNN", **given | {"evaluations": 1}).config)
        if arm == "recast":
            config = replace(config, recast={"strength": RECAST_STRENGTH, "gate": gate})
        return replace(cell, config=config)

    def starts(self) -> list[Cell]:
        """Locality by initial weights alone: DeiT with other starts, against ConViT and DeiT (rows a and e)."""
        fraction = self.scale.ablation_fractions[0]
        return [self.cell({"start": arm}, arm, fraction=fraction) for arm in ("ConViT", "DeiT")] + [
            self.start_cell({"start": name}, name, fraction=fraction) for name in STARTS
        ]

    def start_cell(self, label: dict, name: str, lr: float | None = None, **given) -> Cell:
        """A cell of `starts`. "sinusoidal" keeps DeiT's learning rate; others have that of their queries and keys."""
        cell = self.cell(label, "DeiT", lr=lr or STARTS_CHOSEN.get(name.partition(",")[0]), **given)
        return replace(cell, config=replace(cell.config, initial=name))


# In the order in which a campaign runs them. `speed` is no grid: it is a view of the benchmarks' records.
NAMES = (
    "search", "sample_efficiency", "dynamics", "masking", "metric", "ablation", "checkpoints", "gates", "locality_grid",
    "psa", "size", "distillation", "search_recast", "recast", "search_starts", "starts",
)  # fmt: skip


def check_name(name: str, known: Iterable[str] = NAMES, what: str = "experiment") -> None:
    """ValueError for a name that is not known; it names the closest that is."""
    if name not in known:
        near = difflib.get_close_matches(name, list(known), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"Unknown {what} {name!r}{hint}; known: {', '.join(known)}.")


def grid(name: str, scale: Scale, settings: Settings | None) -> list[Cell]:
    """The cells of a named experiment. ValueError for an unknown name, `NotSearched` where settings are needed."""
    check_name(name)
    if settings is None and name != "search":
        raise NotSearched(f"{name} needs the learning rates chosen by search at scale {scale.name}; run search first.")
    return getattr(Grid(scale, settings), name)()
