"""The claims of the paper, and of this book, as comparisons fixed before the runs that they are tested on.

A claim "A - B > 0" holds if the 95 % interval lies above 0, is contradicted if it lies below, and is open
otherwise. A claim of several parts holds, or is contradicted, if all of them do; if only some hold it holds in part.
A claim that two things differ, whichever way, holds if the interval leaves 0 out. A comparison that the setting
decides, by its start or its budget, is shown, has no verdict of its own and counts for none.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from ..train import Recipe
from .experiments import RECAST_GATES, STRENGTHS
from .report import Estimate, Missing, Results, Table, compare, estimate, paired, percent

HOLDS, IN_PART, CONTRADICTED, OPEN = "holds", "holds in part", "contradicted", "open"
BOUND = "bound by the setting"
Values = Mapping[int, float]


@dataclass(frozen=True)
class Part:
    """One comparison of a claim: what is claimed to be above 0, measured in `unit`.

    `bound` declares that the setting leaves it (nearly) no way to come out otherwise.
    """

    name: str
    found: Estimate
    unit: str = "points"
    two_sided: bool = False
    bound: bool = False

    @property
    def verdict(self) -> str:
        if self.bound:
            return BOUND
        if self.found.low > 0 or (self.two_sided and self.found.high < 0):
            return HOLDS
        return CONTRADICTED if self.found.high < 0 else OPEN  # one seed has no interval: open


def part(name: str, a: Values, b: Values, unit: str = "points", **options: bool) -> Part:
    return Part(name, compare(a, b), unit, **options)


def verdict(parts: Iterable[Part]) -> str:
    """The verdict on a claim of one or several parts: that of the parts which the setting leaves open."""
    found = [part.verdict for part in parts]
    found = [each for each in found if each != BOUND] or found
    if len(set(found)) == 1:
        return found[0]
    return IN_PART if HOLDS in found else OPEN


@dataclass(frozen=True)
class Claim:
    """A statement, the experiment that tests it, and its comparisons on that experiment's results."""

    statement: str
    experiment: str
    parts: Callable[[Results], list[Part]]


def _mean(found: Mapping[int, list], *where: int) -> dict[int, float]:
    """By seed, the mean of a nested list (layers, heads), of one layer where a number is given."""
    chosen = {seed: [value[layer] for layer in where] if where else value for seed, value in found.items()}
    return {seed: mean(x for layer in value for x in layer) for seed, value in chosen.items()}


def _gap(results: Results, after: float = 1.0, **label) -> dict[int, float]:
    """ConViT minus DeiT, by seed."""
    return paired(*(results.accuracy(after, arm=arm, **label) for arm in ("ConViT", "DeiT")))


def _budgets(results: Results) -> dict[int, tuple[float, ...]]:
    """The fractions at each number of steps."""
    scale = results.scale
    found = {scale.steps: scale.fractions} if scale.fractions else {}
    return found | {scale.long_steps: scale.long_fractions}


def _size(results: Results) -> list[Part]:
    return [Part(size, estimate(_gap(results, size=size).values())) for size in results.scale.sizes]


def _less_data(results: Results) -> list[Part]:
    return [
        Part(f"{percent(fraction)}, {steps} steps", estimate(_gap(results, fraction=fraction, steps=steps).values()))
        for steps, fractions in _budgets(results).items()
        for fraction in fractions
        if fraction < 1
    ]


def _larger_gap(results: Results) -> list[Part]:
    """At equal steps; and once more, so named, where every run concerned had converged."""
    parts = []
    for steps, fractions in _budgets(results).items():
        small = min(fractions)
        few, all_ = (_gap(results, fraction=fraction, steps=steps) for fraction in (small, 1.0))
        arms = [dict(fraction=f, steps=steps, arm=arm) for f in (small, 1.0) for arm in ("ConViT", "DeiT")]
        converged = all(results.gained(**arm) < 1 for arm in arms)
        parts.append(part(f"{percent(small)} against all, {steps} steps{', converged' * converged}", few, all_))
    return parts


def _early(results: Results) -> list[Part]:
    first = 1 / len(results.curve(arm="ConViT")[0])
    pair = (_gap(results, after) for after in (first, 1.0))
    return [part("first evaluation against the last", *pair)]


def _rows(results: Results, pairs: list[tuple[str, str]], fractions: Iterable[float], two_sided=False) -> list[Part]:
    return [
        part(f"{a} - {b}, {percent(fraction)}", results.accuracy(row=a, fraction=fraction),
             results.accuracy(row=b, fraction=fraction), two_sided=two_sided)
        for fraction in fractions
        for a, b in pairs
    ]  # fmt: skip


def _ablation(*pairs: tuple[str, str], full: bool = False, two_sided: bool = False) -> Callable[[Results], list[Part]]:
    def parts(results: Results) -> list[Part]:
        small, whole = results.scale.ablation_fractions
        return _rows(results, list(pairs), (small, whole) if full else (small,), two_sided)

    return parts


def _locality(results: Results) -> list[Part]:
    grid, every = results.scale.grid_layers, STRENGTHS
    few, many = min(grid), max(grid)

    def average(strengths: Iterable[float], layers: Iterable[int]) -> dict[int, float]:
        cells = [results.accuracy(strength=s, layers=n) for s in strengths for n in layers]
        return {seed: mean(cell[seed] for cell in cells) for seed in cells[0] if all(seed in cell for cell in cells)}

    return [
        part(f"strength {every[-1]:g} - {every[0]:g}", average(every[-1:], grid), average(every[:1], grid)),
        part(f"{many} - {few} GPSA layers", average(every, [many]), average(every, [few])),
    ]


def _psa(results: Results) -> list[Part]:
    first = 1 / len(results.curve(arm="PSA")[0])
    return [
        part("PSA - DeiT, first evaluation", results.accuracy(first, arm="PSA"), results.accuracy(first, arm="DeiT")),
        part("DeiT - PSA, end", results.accuracy(arm="DeiT"), results.accuracy(arm="PSA")),
        part("GPSA - PSA, end", results.accuracy(arm="ConViT"), results.accuracy(arm="PSA")),
    ]


def _nonlocality(results: Results) -> list[Part]:
    convit, deit = (_mean(results.measured("nonlocality", arm=arm)) for arm in ("ConViT", "DeiT"))
    start = _mean(results.measured("nonlocality", 0.0, arm="ConViT"))
    return [
        part("DeiT - ConViT, end", deit, convit, "patches", bound=True),  # half of DeiT's distance from the start on
        part("ConViT, end - start", convit, start, "patches"),
    ]


def reach(results: Results) -> float:
    """How far Adam can move a gate's logit in ConViT's training: the sum of the learning rates (chapter 09)."""
    recipe = Recipe(**next(iter(results.select(arm="ConViT").values()))["config"]["recipe"])
    return sum(recipe.learning_rate(step) for step in range(recipe.steps))


LOW_GATE = 0.1
NEEDED = 1 - math.log(LOW_GATE / (1 - LOW_GATE))  # a gate's way from its start, logit 1, to LOW_GATE: 3.2


def _gates(results: Results) -> list[Part]:
    found = results.measured("gates", arm="ConViT")
    upper = {seed: mean(gates[-1]) for seed, gates in found.items()}
    lower = {seed: max(gates[0]) for seed, gates in found.items()}
    return [
        part(f"{LOW_GATE} - mean gate of the last GPSA layer", dict.fromkeys(upper, LOW_GATE), upper, "",
             bound=reach(results) < NEEDED),
        part("highest gate of the first layer - 0.5", lower, dict.fromkeys(lower, 0.5), "", bound=True),  # from 0.73
    ]  # fmt: skip


def _masking(results: Results) -> list[Part]:
    lost = {}
    for arm in ("ConViT", "DeiT"):
        masked = results.outcome("masking", arm=arm)
        lost[arm] = paired(results.accuracy(arm=arm), {s: found["absolute positions"] for s, found in masked.items()})
    return [part("loss of DeiT - loss of ConViT", lost["DeiT"], lost["ConViT"])]


def _content(results: Results) -> list[Part]:
    found = results.outcome("masking", arm="ConViT")
    position, content = ({seed: value[what][-1] for seed, value in found.items()} for what in ("position", "content"))
    return [part("position masked - content masked", position, content)]


def _metric(results: Results) -> list[Part]:
    parts = []
    for arm in ("ConViT", "DeiT"):
        found = results.outcome("metric", arm=arm)
        cut, true = ({s: mean(map(mean, value[how])) for s, value in found.items()} for how in ("shortcut", "true"))
        parts.append(part(f"shortcut - true, {arm}", cut, true, "patches", two_sided=True))
    return parts


def _cutmix(results: Results) -> list[Part]:
    least = {}
    for alpha in (0.0, 1.0):
        found = results.measured("nonlocality", arm="DeiT", cutmix=alpha)
        least[alpha] = {seed: min(layers[0]) for seed, layers in found.items()}
    return [part("DeiT's most local head, layer 1: without - with", least[0.0], least[1.0], "patches")]


def _teacher(results: Results) -> list[Part]:
    gain = {
        arm: paired(*(results.accuracy(arm=arm, teacher=name) for name in ("CNN", "none")))
        for arm in ("DeiT", "ConViT")
    }
    without, with_ = (_mean(results.measured("nonlocality", arm="DeiT", teacher=name)) for name in ("none", "CNN"))
    return [
        part("gain of DeiT - gain of ConViT", gain["DeiT"], gain["ConViT"]),
        part("DeiT's non-locality: without - with", without, with_, "patches"),
    ]


def _against(entry: str, pairs: list[tuple[str, str]]) -> Callable[[Results], list[Part]]:
    """Accuracy at the end, for pairs of values of one entry of the label."""

    def parts(results: Results) -> list[Part]:
        return [part(f"{a} - {b}", *(results.accuracy(**{entry: value}) for value in (a, b))) for a, b in pairs]

    return parts


SET_FREE = [f"recast, gates from {gate:g}" for gate in RECAST_GATES if gate < 1]

CLAIMS: dict[str, Claim] = {
    "C1": Claim("ConViT is better than a DeiT of equal size on all data, at three sizes", "size", _size),
    "C2": Claim("ConViT is better than DeiT on less data", "sample_efficiency", _less_data),
    "C3": Claim("the less data, the larger the gap", "sample_efficiency", _larger_gap),
    "C4": Claim("the gap is larger early in training than at its end", "dynamics", _early),
    "C5": Claim("GPSA without its start and without gates is better than DeiT", "ablation",
                _ablation(("d", "e"), full=True)),
    "C6": Claim("with little data the start helps, and the gates help", "ablation", _ablation(("b", "d"), ("c", "d"))),
    "C7": Claim("with little data frozen convolutions beat DeiT, and frozen random attention", "ablation",
                _ablation(("f", "e"), ("f", "g"))),
    "C8": Claim("stronger locality is better, and so are more GPSA layers", "locality_grid", _locality),
    "C9": Claim("vanilla positional attention is ahead of DeiT early, behind DeiT and GPSA at the end", "psa", _psa),
    "C10": Claim("ConViT stays more local than DeiT, and grows less local than it began", "dynamics", _nonlocality),
    "C11": Claim("gates end near 0 in upper layers and stay up in some lower heads", "dynamics", _gates),
    "C12": Claim("without absolute positions DeiT loses more than ConViT", "masking", _masking),
    "C13": Claim("masking content hurts more than masking position", "masking", _content),
    "C14": Claim("a convolutional teacher helps DeiT more than ConViT, and makes DeiT more local", "distillation",
                 _teacher),
    "N1": Claim("identity values alone help, and the positional start alone helps", "ablation",
                _ablation(("identity values alone", "c"), ("positional start alone", "c"))),
    "N2": Claim("a late class token alone changes DeiT", "ablation",
                _ablation(("DeiT, late class token", "e"), full=True, two_sided=True)),
    "N3": Claim("the published shortcut and the true non-locality disagree", "metric", _metric),
    "N4": Claim("CutMix alone makes DeiT's first layer local", "cutmix", _cutmix),
    "N5": Claim("a trained CNN, recast as GPSA and set free, ends above the CNN trained on", "recast",
                _against("arm", [(arm, "CNN, trained on") for arm in SET_FREE])),
    "N6": Claim("a trained CNN, recast as GPSA and set free, ends above a ConViT from scratch after as many steps",
                "recast", _against("arm", [(arm, "ConViT") for arm in SET_FREE])),
    "N7": Claim("mimetic weights, and structured queries and keys, each help DeiT, with little data", "starts",
                _against("start", [("mimetic", "DeiT"), ("structured", "DeiT")])),
    "N8": Claim("ConViT stays ahead of DeiT with either of these starts, with little data", "starts",
                _against("start", [("ConViT", "mimetic"), ("ConViT", "structured")])),
}  # fmt: skip


def parts_of(name: str, scale: str = "laptop", folder: str | Path | None = None) -> list[Part]:
    """The comparisons of a claim as recorded; an empty list if the experiment is not, or only partly, recorded."""
    claim = CLAIMS[name]
    try:
        return claim.parts(Results(claim.experiment, scale, folder))
    except Missing:
        return []


def verdicts(experiments: Iterable[str], scale: str = "laptop", folder: str | Path | None = None) -> Table:
    """The claims that these experiments test, each with its verdict, then part by part: difference, interval, seeds."""
    rows = []
    experiments = list(experiments)
    for name, claim in CLAIMS.items():
        if claim.experiment in experiments and (parts := parts_of(name, scale, folder)):
            rows += rows_of(name, parts)
    return Table(f"Claims, {scale}", ["claim", "compared", "difference", "95 % interval", "seeds", "verdict"], rows)


def rows_of(name: str, parts: list[Part]) -> list[list[str]]:
    """The rows of one claim in a table of verdicts: the statement, then its comparisons."""
    rows = [[name, f"{CLAIMS[name].statement}: **{verdict(parts)}**"]]
    for each in parts:
        digits = 1 if each.unit == "points" else 2
        interval = f"{each.found.low:+.{digits}f} to {each.found.high:+.{digits}f}" if each.found.n > 1 else "-"
        difference = f"{each.found.mean:+.{digits}f} {each.unit}".strip()
        rows.append(["", each.name, difference, interval, str(each.found.n), each.verdict])
    return rows
