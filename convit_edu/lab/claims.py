"""Every claim in one row: the statement, what the paper says and with what number, and the comparison that tests it.

The comparisons were fixed before the runs that they are tested on. A claim "A - B > 0" holds if the 95 % interval lies
above 0, is contradicted if it lies below, and is open otherwise. A claim of several parts holds, or is contradicted, if
all of them do; if only some hold it holds in part. A claim that two things differ, whichever way, holds if the interval
leaves 0 out. A comparison that the setting decides, by its start or its budget, is shown, has no verdict of its own and
counts for none.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, product
from pathlib import Path
from statistics import mean

from ..train import Recipe
from . import records
from .experiments import LATE, RECAST_GATES, STRENGTHS
from .intervals import Estimate, Missing, compare, estimate, holm, paired, power
from .results import Results
from .scales import SCALES
from .tables import Table, percent

# Chapters, as their files are called.
FAST, SAMPLES, INSIDE = "12-fast-gpsa", "07-sample-efficiency", "08-looking-inside"
ABLATIONS, WITHOUT_GPSA, RECAST = "09-ablations", "10-local-without-gpsa", "11-from-cnn-to-convit"
NOT_THEIRS = "not in the paper"

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
    """One row of the card.

    Attributes:
        statement: the claim.
        where, said: the place in the paper, and the number that stands there.
        chapter: the chapter that tests the claim.
        experiment: the experiment whose runs it is tested on.
        parts: its comparisons on that experiment's results; None where it is about times, which have no seeds.
        differences: the paper's numbers for our comparisons, in points, by the first or the last words of the
            comparison's name; none where the paper intervened otherwise. They come from other data, sizes and training
            lengths, and from single runs.
    """

    statement: str
    where: str
    said: str
    chapter: str
    experiment: str
    parts: Callable[[Results], list[Part]] | None
    differences: Mapping[str, float] = field(default_factory=dict)

    def difference(self, part: str) -> float | None:
        """The paper's number for a comparison of this name, or None."""
        found = (value for words, value in self.differences.items() if part.startswith(words) or part.endswith(words))
        return next(found, None)


def _mean(found: Mapping[int, list], *where: int) -> dict[int, float]:
    """By seed, the mean of a nested list (layers, heads), of one layer where a number is given."""
    chosen = {seed: [value[layer] for layer in where] if where else value for seed, value in found.items()}
    return {seed: mean(x for layer in value for x in layer) for seed, value in chosen.items()}


def _gap(results: Results, after: float = 1.0, **label) -> dict[int, float]:
    """ConViT minus DeiT, by seed."""
    return paired(*(results.accuracy(after, arm=arm, **label) for arm in ("ConViT", "DeiT")))


def _size(results: Results) -> list[Part]:
    return [Part(size, estimate(_gap(results, size=size).values())) for size in results.scale.sizes]


def _less_data(results: Results) -> list[Part]:
    return [
        Part(f"{percent(fraction)}, {steps} steps", estimate(_gap(results, fraction=fraction, steps=steps).values()))
        for steps, fractions in results.scale.budgets.items()
        for fraction in fractions
        if fraction < 1
    ]


def _larger_gap(results: Results) -> list[Part]:
    """At equal steps; and once more, so named, where every run concerned had converged."""
    parts = []
    for steps, fractions in results.scale.budgets.items():
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
        part("DeiT - ConViT, end", deit, convit, "patches", bound=True),  # GPSA starts at half of DeiT's
        part("ConViT, end - start", convit, start, "patches"),
    ]


def reach(recipe: Recipe) -> float:
    """How far Adam can move a gate's logit: the sum of the gates' learning rates (chapter 08)."""
    return (recipe.gate_speed or 1) * sum(recipe.learning_rate(step) for step in range(recipe.steps))


LOW_GATE = 0.1
NEEDED = 1 - math.log(LOW_GATE / (1 - LOW_GATE))  # a gate's way from its start, logit 1, to LOW_GATE: 3.2
HIGH_GATE = 0.5


def _gates(results: Results) -> list[Part]:
    parts = []
    for arm in ("as the rest", "20 times the rate"):
        budget = reach(next(iter(results.select(gates=arm).values()))["config"].recipe)
        found = results.measured("gates", gates=arm)
        last = {seed: mean(layers[-1]) for seed, layers in found.items()}
        first = {seed: max(layers[0]) for seed, layers in found.items()}
        parts += [
            part(f"{LOW_GATE} - last layer's mean gate, {arm}", dict.fromkeys(last, LOW_GATE), last, "",
                 bound=budget < NEEDED),
            # All heads of a layer would have to spend most of a small budget in one direction.
            part(f"first layer's highest gate - {HIGH_GATE}, {arm}", first, dict.fromkeys(first, HIGH_GATE), "",
                 bound=budget < NEEDED),
        ]  # fmt: skip
    return parts


def _gate_speed(results: Results) -> list[Part]:
    fast, usual = (results.accuracy(gates=arm) for arm in ("20 times the rate", "as the rest"))
    return [part("20 times the rate - as the rest", fast, usual, two_sided=True)]


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

SPEED = "GPSA's fast form takes less time than its readable form and timm's, at inference and in training"

CLAIMS: dict[str, Claim] = {
    "C1": Claim(
        "ConViT is better than a DeiT of equal size on all data, at three sizes",
        "Table 1", "+0.8, +3.2, +5.0 points (Ti+, S+, B+)",
        SAMPLES, "size", _size, {"small": 0.8, "medium": 3.2, "large": 5.0},
    ),
    "C2": Claim(
        "ConViT is better than DeiT on less data",
        "Table 2", "5 %: +13.0, 10 %: +11.6, 30 %: +7.6, 50 %: +3.6 points",
        SAMPLES, "sample_efficiency", _less_data, {"5 %": 13.0, "10 %": 11.6, "30 %": 7.6, "50 %": 3.6},
    ),
    "C3": Claim(
        "the less data, the larger the gap",
        "Table 2", "+13.0 points at 5 %, +1.5 at 100 %: +11.5",
        SAMPLES, "sample_efficiency", _larger_gap, {"5 %": 11.5},
    ),
    "C4": Claim(
        "the gap is larger early in training than at its end",
        "Figure 8b", "+16 points after 20 epochs, +5 after 295, read off: +11",
        SAMPLES, "dynamics", _early, {"first": 11.0},
    ),
    "C5": Claim(
        "GPSA without its start and without gates is better than DeiT",
        "Table 3, d - e", "+6.8 points at 10 %, +2.5 at 100 %",
        ABLATIONS, "ablation", _ablation(("d", "e"), full=True), {", 10 %": 6.8, ", 100 %": 2.5},
    ),
    "C6": Claim(
        "with little data the start helps, and the gates help",
        "Table 3, b - d and c - d", "+2.8 and +2.3 points at 10 %",
        ABLATIONS, "ablation", _ablation(("b", "d"), ("c", "d")), {"b - d": 2.8, "c - d": 2.3},
    ),
    "C7": Claim(
        "with little data frozen convolutions beat DeiT, and frozen random attention",
        "Table 3, f - e and f - g", "+6.5 and +9.5 points at 10 %",
        ABLATIONS, "ablation", _ablation(("f", "e"), ("f", "g")), {"f - e": 6.5, "f - g": 9.5},
    ),
    "C8": Claim(
        "stronger locality is better, and so are more GPSA layers",
        "Figure 8a", "+1.6 points (strength 1 - 0.01), +2.6 (9 - 3 layers), read off; by strong inference another "
        "intervention than ours",
        ABLATIONS, "locality_grid", _locality,
    ),
    "C9": Claim(
        "vanilla positional attention is ahead of DeiT early, behind DeiT and GPSA at the end",
        "Figure 9", "curves: ahead early, overtaken late",
        ABLATIONS, "psa", _psa,
    ),
    "C10": Claim(
        "ConViT stays more local than DeiT, and grows less local than it began",
        "Figure 5", "curves: local at the start, less local later, below DeiT at the end",
        INSIDE, "dynamics", _nonlocality,
    ),
    "C11": Claim(
        "gates end near 0 in upper layers and stay up in some lower heads",
        "Figure 6", "curves: about 0 in layers 6 to 10, some heads of layers 1 to 5 high",
        INSIDE, "gates", _gates,
    ),
    "C12": Claim(
        "without absolute positions DeiT loses more than ConViT",
        "Table 5", "DeiT loses 33.9 points, ConViT 6.0: +27.9",
        INSIDE, "masking", _masking, {"loss of DeiT": 27.9},
    ),
    "C13": Claim(
        "masking content hurts more than masking position",
        "Table 6, 10 layers", "46.8 - 1.3 % left: +45.5 points",
        INSIDE, "masking", _content, {"position masked": 45.5},
    ),
    "C14": Claim(
        "a convolutional teacher helps DeiT more than ConViT, and makes DeiT more local",
        "Table 4, Figure 10", "DeiT-S +1.1 points, ConViT-S+ +0.7: +0.4; curves, probably by the shortcut: distilled "
        "DeiT more local",
        WITHOUT_GPSA, "distillation", _teacher, {"gain of ConViT": 0.4},
    ),
    "C15": Claim(
        SPEED,
        "Table 1", "inference on a GPU: DeiT's images/s are 1.96 (Ti), 1.92 (S), 1.33 (B) times ConViT's",
        FAST, "speed", None,
    ),
    "N1": Claim(
        "identity values alone help, and the positional start alone helps",
        NOT_THEIRS, "its Table 3 changes both at once",
        ABLATIONS, "ablation", _ablation(("identity values alone", "c"), ("positional start alone", "c")),
    ),
    "N2": Claim(
        "a late class token alone changes DeiT",
        NOT_THEIRS, "its d - e changes the token's place too",
        ABLATIONS, "ablation", _ablation((LATE, "e"), full=True, two_sided=True),
    ),
    "N3": Claim(
        "the published shortcut and the true non-locality disagree",
        NOT_THEIRS, "Eq. 8 and the released code differ",
        INSIDE, "metric", _metric,
    ),
    "N5": Claim(
        "a trained CNN, recast as GPSA and set free, ends above the CNN trained on",
        NOT_THEIRS, "a later paper of theirs (T-CNN): +2.2 points for a ResNet50-RS",
        RECAST, "recast", _against("arm", [(arm, "CNN, trained on") for arm in SET_FREE]),
    ),
    "N6": Claim(
        "a trained CNN, recast as GPSA and set free, ends above a ConViT from scratch after as many steps",
        NOT_THEIRS, "the later paper: better than the hybrid from scratch, in less time",
        RECAST, "recast", _against("arm", [(arm, "ConViT") for arm in SET_FREE]),
    ),
    "N7": Claim(
        "mimetic weights, and structured queries and keys, each help DeiT, with little data",
        NOT_THEIRS, "two later papers: each better than the usual start on small data",
        WITHOUT_GPSA, "starts", _against("start", [("mimetic", "DeiT"), ("structured", "DeiT")]),
    ),
    "N8": Claim(
        "ConViT stays ahead of DeiT with either of these starts, with little data",
        NOT_THEIRS, "no paper that compares the three is known to us",
        WITHOUT_GPSA, "starts", _against("start", [("ConViT", "mimetic"), ("ConViT", "structured")]),
    ),
    "N9": Claim(
        "gates that learn 20 times as fast as the rest change the accuracy",
        NOT_THEIRS, "all parameters have one learning rate",
        INSIDE, "gates", _gate_speed,
    ),
}  # fmt: skip


def parts_of(name: str, scale: str = "laptop", folder: str | Path | None = None) -> list[Part]:
    """The comparisons of a claim as recorded; an empty list if the experiment is not, or only partly, recorded."""
    claim = CLAIMS[name]
    if claim.parts is None:
        return []
    try:
        return claim.parts(Results(claim.experiment, scale, folder))
    except Missing:
        return []


def corrected(tested: Mapping[str, list[Part]]) -> dict[tuple[str, str], str]:
    """The verdict on every comparison after Holm's correction, by the names of claim and comparison.

    The correction is for all the comparisons of `tested` that the setting does not decide: with it, the chance that
    any of them holds or is contradicted by luck is at most 5 %.
    """
    parts = {(name, part.name): part for name, parts in tested.items() for part in parts}
    adjusted = holm(math.nan if part.bound else part.found.p for part in parts.values())
    lost = [not p <= 0.05 for p in adjusted]
    return {key: OPEN if gone and not part.bound else part.verdict for (key, part), gone in zip(parts.items(), lost)}


def power_of(name: str, part: Part) -> float | None:
    """The power of a comparison for the paper's effect: with as many seeds, and the spread that their differences have.

    None where the paper has no number for it.
    """
    said = CLAIMS[name].difference(part.name)
    if said is None or part.found.n < 2:
        return None
    return power(said, part.found.deviation, part.found.n)


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
    return rows + [
        ["", each.name, difference(each), interval(each) or "-", str(each.found.n), each.verdict] for each in parts
    ]


# --- speed

FORMS = {  # record -> form of GPSA -> its row, and the row of the plain network or layer it is measured against
    "model": {"timm's": ("timm_convit", "timm_deit"), "fast": ("convit", "deit")},
    "attention": {
        "readable": ("gpsa_readable", "timm_attention"), "timm's": ("timm_gpsa", "timm_attention"),
        "fast": ("gpsa", "timm_attention"),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Timed:
    """One benchmarked case: for every form of GPSA its time over plain attention's, and whether the fast one wins."""

    device: str
    precision: str
    what: str
    mode: str
    over: Mapping[str, float]
    faster: bool


def timed(folder: str | Path | None = None) -> list[Timed]:
    """Whole models, and layers on the paper's 14 x 14 grid, from the benchmarks' records.

    The fast form is faster in a case if the upper quartile of its times lies below the lower quartile of every other.
    """
    found = []
    for record, forms in FORMS.items():
        for path in sorted((Path(folder or records.shipped()) / "benchmarks").glob(f"{record}-*.json")):
            cases = {}
            for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
                if row.get("grid", [14, 14]) == [14, 14]:
                    what = row.get("model") or f"a layer, {row['size']}"
                    mode = {"forward": "inference"}.get(row["mode"], row["mode"])
                    what += ", compiled" * row["compiled"]
                    cases.setdefault((row["device"], row["precision"], what, mode), {})[row["row"]] = row
            for case, rows in cases.items():
                known = {form: rows[name] for form, (name, _) in forms.items() if name in rows}
                if {"fast", "timm's"} <= set(known):
                    faster = all(known["fast"]["high"] < row["low"] for form, row in known.items() if form != "fast")
                    over = {form: row["time_over"][forms[form][1]] for form, row in known.items()}
                    found.append(Timed(*case, over, faster))
    return found


def speeds(folder: str | Path | None = None) -> Table:
    """A view of the benchmarks' records: GPSA's time over plain attention's; its last row is the verdict on C15.

    Times have no seeds; the benchmarks' records have their quartiles.
    """
    cases = timed(folder)
    rows = [
        [case.device, case.precision, case.what, case.mode,
         *(f"{case.over[form]:.2f}" if form in case.over else "-" for form in FORMS["attention"])]
        for case in cases
    ]  # fmt: skip
    if cases:
        rows.append(["C15", f"{SPEED}: **{speed_verdict(cases)}**"])
    title = "speed: time over that of plain attention (a ConViT's over its DeiT's, a layer's over a plain layer's)"
    return Table(title, ["device", "precision", "what", "step", "readable form", "timm's form", "fast form"], rows)


WHERE = {"cpu": "on a CPU", "cuda": "on a GPU"}


def fastest(cases: Iterable[Timed]) -> str:
    """The verdict on C15: it holds if the fast form is the faster in all of these cases, in part if in some."""
    won = [case.faster for case in cases]
    return HOLDS if all(won) else IN_PART if any(won) else CONTRADICTED


def speed_verdict(cases: Iterable[Timed]) -> str:
    """The verdict on C15 in words, on every device on which it was timed."""
    by_device: dict[str, list[Timed]] = {}
    for case in cases:
        by_device.setdefault(case.device, []).append(case)
    return ", ".join(f"{fastest(found)} {WHERE.get(device, device)}" for device, found in sorted(by_device.items()))


# --- the report card

NOT_MEASURED = "not measured"
# The verdicts in the order of the card, each with a sign: no verdict is told by its colour alone.
SIGNS = {HOLDS: "✓", IN_PART: "◐", OPEN: "○", CONTRADICTED: "✗", BOUND: "–", NOT_MEASURED: "·"}
# What the card says of a comparison, under which headings; nothing where it has none, and no heading where none has.
FACTS = ("the paper", "here", "95 % interval", "seeds", "verdict", "corrected for all", "power for the paper's")


def tested(scale: str = "laptop", folder: str | Path | None = None) -> dict[str, list[Part]]:
    """The comparisons of every claim that is recorded at this scale, by the claim's name."""
    found = {name: parts_of(name, scale, folder) for name in CLAIMS}
    return {name: parts for name, parts in found.items() if parts}


@dataclass(frozen=True)
class Card:
    """The report card, as text where it is printed; `convit_edu.book.cards` shows it in a page.

    Attributes:
        recorded: by scale, the largest first, the comparisons of every claim that is recorded there.
        speed: the benchmarked cases of C15, which have neither scale nor seeds.
    """

    recorded: Mapping[str, Mapping[str, list[Part]]]
    speed: list[Timed]

    def found(self, name: str) -> dict[str, list[Part]]:
        """The comparisons of a claim at each scale at which it is recorded, the largest first."""
        return {scale: found[name] for scale, found in self.recorded.items() if name in found}

    def verdict(self, name: str) -> str:
        """The verdict on a claim, by all its comparisons: at two scales it may hold at one and fail at the other."""
        if name == "C15" and self.speed:
            return fastest(self.speed)
        return verdict(self.comparisons[name]) if name in self.comparisons else NOT_MEASURED

    @property
    def comparisons(self) -> dict[str, list[Part]]:
        """The comparisons of every recorded claim, at all scales."""
        return {name: [*chain(*found.values())] for name in CLAIMS if (found := self.found(name))}

    @property
    def groups(self) -> dict[str, list[str]]:
        """The names of the claims by verdict, in the order of `SIGNS`."""
        found = {each: [name for name in CLAIMS if self.verdict(name) == each] for each in SIGNS}
        return {each: names for each, names in found.items() if names}

    def facts(self, scale: str, name: str, part: Part) -> dict[str, str]:
        """What stands beside a comparison, by heading, without what it has not."""
        said, chance = CLAIMS[name].difference(part.name), power_of(name, part)
        facts = (
            "" if said is None else signed(said, 1), difference(part), interval(part), str(part.found.n),
            f"{SIGNS[part.verdict]} {part.verdict}",
            "" if part.bound else corrected(self.recorded[scale])[name, part.name],
            "" if chance is None else f"{100 * chance:.0f} %",
        )  # fmt: skip
        return {heading: words for heading, words in zip(FACTS, facts, strict=True) if words}

    def __str__(self) -> str:
        lines = ["Report card"]
        for each, names in self.groups.items():
            lines += ["", f"{SIGNS[each]} {each}: {len(names)}"]
            for name in names:
                lines += [f"  {name}  {CLAIMS[name].statement}", f"      {CLAIMS[name].where}: {CLAIMS[name].said}"]
                lines += [f"      {line}" for line in speed_lines(self.speed) if name == "C15"]
                for scale, parts in self.found(name).items():
                    lines += [f"      scale {scale}: {verdict(parts)}"]
                    for part in parts:
                        facts = self.facts(scale, name, part).items()
                        lines += [f"        {part.name}: {'; '.join(' '.join(fact) for fact in facts)}"]
        return "\n".join(lines)

    __repr__ = __str__


def signed(value: float, digits: int) -> str:
    """A number with its sign; what rounds to 0 is +0."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def _digits(part: Part) -> int:
    return 1 if part.unit == "points" else 2


def difference(part: Part) -> str:
    """The mean of a comparison with its unit."""
    return f"{signed(part.found.mean, _digits(part))} {part.unit}".rstrip()


def interval(part: Part) -> str:
    """The 95 % interval of a comparison, "" for a single seed."""
    ends = (signed(end, _digits(part)) for end in (part.found.low, part.found.high))
    return " to ".join(ends) if part.found.n > 1 else ""


def card(folder: str | Path | None = None) -> Card:
    """The report card of a folder of records, the shipped one where None."""
    scales = [name for name in SCALES if not name.endswith("-rehearsal")]
    recorded = {scale: tested(scale, folder) for scale in reversed(scales)}
    return Card({scale: found for scale, found in recorded.items() if found}, timed(folder))


def speed_lines(cases: Iterable[Timed]) -> list[str]:
    """What C15 rests on: how long networks take, by device; times have no seeds."""
    networks = [case for case in cases if not case.what.startswith("a layer")]
    lines = []
    for device, mode in product(sorted({case.device for case in networks}), ("inference", "training")):
        over = [case.over for case in networks if (case.device, case.mode) == (device, mode)]
        spans = [f"{form} form {_span([each[form] for each in over])}" for form in ("timm's", "fast") if over]
        lines += [f"{mode} {WHERE.get(device, device)}, ConViT's time over DeiT's: {', '.join(spans)}"] * bool(over)
    return lines


def _span(ratios: list[float]) -> str:
    return f"{min(ratios):.2f} to {max(ratios):.2f}"
