"""From recorded runs to means, intervals, tables and verdicts. Chapters 08 to 12 show what this module returns.

An interval is Student's, 95 %, over seeds; a comparison is the mean of differences paired by seed. Both speak of
seeds and subsets, not of the choice of test images.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from . import records
from .experiments import NAMES, Grid, scores
from .scales import SCALES

# --- statistics


def student_t(freedom: int, confidence: float = 0.95) -> float:
    """The two-sided quantile of Student's t for so many degrees of freedom, e.g. 2.776 for 4."""
    if freedom < 1 or not 0 < confidence < 1:
        raise ValueError(f"student_t needs at least one degree of freedom and a confidence in (0, 1), got {freedom}.")

    def inside(t: float) -> float:  # P(|T| < t): a finite sum for whole degrees of freedom
        angle = math.atan(t / math.sqrt(freedom))
        odd = freedom % 2
        term = total = math.cos(angle) if odd else 1.0
        for k in range(3 if odd else 2, freedom - 1, 2):
            term *= (k - 1) / k * math.cos(angle) ** 2
            total += term
        if odd:
            return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0))
        return math.sin(angle) * total

    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < confidence else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval, mean ± half; `half` is NaN for one seed."""

    mean: float
    half: float
    n: int

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half

    def __str__(self) -> str:
        return self.shown()

    @property
    def signed(self) -> str:
        return self.shown(sign="+")

    def shown(self, digits: int = 1, sign: str = "") -> str:
        """Mean and, for two seeds or more, half the interval. `sign="+"` writes the sign of a mean above 0."""
        return f"{self.mean:{sign}.{digits}f}" + (f" ± {self.half:.{digits}f}" if self.n > 1 else "")


class Missing(ValueError):
    """What was asked for is not recorded, or not yet."""


def estimate(values: Iterable[float]) -> Estimate:
    """Mean and 95 % interval of independent values. `Missing` for none."""
    values = list(values)
    if not values:
        raise Missing("An estimate needs at least one value.")
    n = len(values)
    half = student_t(n - 1) * stdev(values) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(mean(values), half, n)


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    """a - b for every seed that both have."""
    return {seed: a[seed] - b[seed] for seed in a if seed in b}


def compare(a: Mapping[int, float], b: Mapping[int, float]) -> Estimate:
    """The mean of a - b paired by seed, with its interval."""
    return estimate(paired(a, b).values())


# --- records


class Results:
    """The runs of one experiment at one scale, to ask for numbers by label.

    `folder` is a folder of records; the shipped one where None.
    """

    def __init__(self, name: str, scale: str = "laptop", folder: str | Path | None = None):
        if name not in NAMES or scale not in SCALES:
            known = f"{', '.join(NAMES)}; scales: {', '.join(SCALES)}"
            raise ValueError(f"Unknown experiment or scale: {name}, {scale}. Known experiments: {known}.")
        self.name, self.scale = name, SCALES[scale]
        runs = records.read(records.path_of(folder or records.shipped(), scale, name))
        self.runs = [run for run in runs if "result" in run]
        self.failed = [run for run in runs if "error" in run]

    def __bool__(self) -> bool:
        return bool(self.runs)

    @property
    def labels(self) -> list[dict]:
        """The labels, in the order of the grid."""
        return list({json.dumps(run["label"]): run["label"] for run in self.runs}.values())

    def select(self, **label) -> dict[int, dict]:
        """The runs with this label or, where no label is just this, with these entries in it; by seed.

        `Missing` if there is none, ValueError if there is more than one for a seed.
        """
        found = [run for run in self.runs if run["label"] == label] or [
            run for run in self.runs if all(run["label"].get(key) == value for key, value in label.items())
        ]
        where = f"of {self.name} at scale {self.scale.name} with {label}"
        if not found:
            raise Missing(f"No run {where}.")
        by_seed = {run["seed"]: run for run in found}
        if len(by_seed) < len(found):
            raise ValueError(f"More than one run a seed {where}.")
        return dict(sorted(by_seed.items()))

    def accuracy(self, after: float = 1.0, **label) -> dict[int, float]:
        """Test accuracy in per cent by seed, after a share of the training: the evaluation nearest to it."""
        answer = {}
        for seed, run in self.select(**label).items():
            by_step = {int(step): value for step, value in run["history"]["accuracy"].items()}
            answer[seed] = by_step[min(by_step, key=lambda step: abs(step - after * max(by_step)))]
        return answer

    def curve(self, **label) -> tuple[list[int], list[list[float]]]:
        """Steps, and test accuracy in per cent at each: a row a seed."""
        runs = self.select(**label).values()
        steps = sorted({int(step) for run in runs for step in run["history"]["accuracy"]})
        return steps, [[run["history"]["accuracy"][str(step)] for step in steps] for run in runs]

    def measured(self, what: str, after: float = 1.0, **label) -> dict[int, list]:
        """"nonlocality", "class_mass" or "gates" by seed, as lists (L, H), after a share of the training."""
        answer = {}
        for seed, run in self.select(**label).items():
            by_step = {int(step): value for step, value in run["history"][what].items()}
            answer[seed] = by_step[min(by_step, key=lambda step: abs(step - after * max(by_step)))]
        return answer

    def outcome(self, what: str, **label) -> dict[int, dict]:
        """An entry of `result` by seed: "parameters", "masking" or "metric"."""
        return {seed: run["result"][what] for seed, run in self.select(**label).items()}

    def gained(self, **label) -> float:
        """Points of test accuracy gained in the last quarter of training, the mean over seeds."""
        return mean(paired(self.accuracy(**label), self.accuracy(after=0.75, **label)).values())


# --- tables


@dataclass(frozen=True)
class Table:
    """A small table of text: prints as plain text, and shows as Markdown in a notebook.

    The last cell of a row with fewer cells than columns may reach over the columns that it leaves out.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        lines = [[cell.replace("**", "") for cell in line] for line in (self.columns, *self.rows)]
        widths = [max(len(line[k]) for line in lines if len(line) > min(k + 1, len(self.columns) - 1))
                  for k in range(len(self.columns))]  # fmt: skip
        text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        return "\n".join([self.title, *("  " + line for line in text)])

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        full = [[*line, *[""] * (len(self.columns) - len(line))] for line in lines]
        return "\n".join("| " + " | ".join(line) + " |" for line in full)


def percent(fraction: float) -> str:
    return f"{100 * fraction:g} %"


def wording(label: dict) -> list[str]:
    """The entries of a label as they are shown."""
    show = {"fraction": percent, "lr": lambda rate: f"{rate:g}", "strength": lambda s: "-" if s is None else f"{s:g}"}
    return [show.get(key, str)(value) for key, value in label.items()]


HEADINGS = {"fraction": "data", "lr": "learning rate", "layers": "GPSA layers"}


def accuracies(results: Results) -> Table:
    """Accuracy after the last step of every cell: mean ± 95 % interval over seeds, in per cent."""
    keys = list(max(results.labels, key=len))
    rows = []
    for label in results.labels:
        found = estimate(results.accuracy(**label).values())
        rows.append([*wording({key: label.get(key, "") for key in keys}), str(found), str(found.n)])
    held = "held-out" if results.name == "search" else "test"
    return Table(
        f"{results.name}, {results.scale.name}: {held} accuracy, %",
        [*(HEADINGS.get(key, key) for key in keys), f"{held} accuracy, %", "seeds"], rows,
    )  # fmt: skip


def beside(shipped: Results, own: Results) -> Table:
    """The reader's accuracies beside the shipped ones, for the cells that both have."""
    rows = []
    for label in [label for label in shipped.labels if label in own.labels]:
        pair = [estimate(results.accuracy(**label).values()) for results in (shipped, own)]
        what = ", ".join(f"{HEADINGS.get(key, key)} {word}" for key, word in zip(label, wording(label)))
        rows.append([what, str(pair[0]), str(pair[0].n), str(pair[1]), str(pair[1].n)])
    title = f"{own.name}, {own.scale.name}: accuracy, %, shipped and yours"
    return Table(title, ["cell", "shipped", "seeds", "yours", "seeds"], rows)


def searched(results: Results) -> Table:
    """The learning-rate search: held-out accuracy of every arm at every rate, the best in brackets."""
    table = scores(results.runs)
    rates = sorted({rate for by_rate in table.values() for rate in by_rate})

    def shown(by_rate: dict[float, float], rate: float) -> str:
        if rate not in by_rate:
            return "-"
        return f"[{by_rate[rate]:.1f}]" if rate == max(by_rate, key=by_rate.get) else f"{by_rate[rate]:.1f}"

    rows = [[arm, *(shown(by_rate, rate) for rate in rates)] for arm, by_rate in table.items()]
    title = f"{results.name}, {results.scale.name}: held-out accuracy, %, by learning rate"
    return Table(title, ["arm", *(f"{rate:g}" for rate in rates)], rows)


def gaps(results: Results) -> Table:
    """ConViT minus DeiT by the share of the data and the number of steps, and whether both had converged."""
    rows = []
    for label in results.labels:
        if label["arm"] != "ConViT":
            continue
        where = {key: value for key, value in label.items() if key != "arm"}
        try:
            gap = compare(results.accuracy(**label), results.accuracy(**where, arm="DeiT"))
        except Missing:  # its partner is not recorded yet
            continue
        gained = [results.gained(**where, arm=arm) for arm in ("ConViT", "DeiT")]
        late = " and ".join(f"{value:+.1f}" for value in gained)
        converged = "yes" if max(gained) < 1 else "no"
        rows.append([percent(label["fraction"]), str(label["steps"]), gap.signed, str(gap.n), late, converged])
    return Table(
        f"{results.name}, {results.scale.name}: ConViT minus DeiT, points",
        ["data", "steps", "gap, points", "seeds", "gained in the last quarter (ConViT, DeiT)", "converged"], rows,
    )  # fmt: skip


def layers(results: Results, what: str = "nonlocality", after: float = 1.0, **label) -> list[Estimate]:
    """Mean over heads of "nonlocality" (in patches) or "gates", an estimate over seeds for each layer."""
    runs = list(results.measured(what, after, **label).values())
    return [estimate(mean(run[layer]) for run in runs) for layer in range(len(runs[0]))]


def depth_profile(results: Results) -> Table:
    """Non-locality and gate of every layer, at the start and at the end of training."""
    rows = []
    for label in results.labels:
        start, end = (layers(results, "nonlocality", after, **label) for after in (0.0, 1.0))
        gate = layers(results, "gates", **label) if any(results.measured("gates", **label).values()) else []
        for layer in range(len(end)):
            shown = gate[layer].shown(2) if layer < len(gate) else "-"
            rows.append([" ".join(wording(label)), str(layer + 1), f"{start[layer].mean:.2f}", end[layer].shown(2),
                         shown])  # fmt: skip
    return Table(
        f"{results.name}, {results.scale.name}: non-locality in patches, mean over heads; gate at the end",
        ["arm", "layer", "non-locality, start", "end", "gate, end"], rows,
    )  # fmt: skip


def masks(results: Results) -> Table:
    """Test accuracy of trained models when something is masked at test time (Tables 5 and 6)."""
    rows = []
    for label in results.labels:
        found = results.outcome("masking", **label)
        rows.append([label["arm"], "nothing", str(estimate(results.accuracy(**label).values())), str(len(found))])
        for what in next(iter(found.values())):
            by_layer = [masked[what] if isinstance(masked[what], list) else [masked[what]] for masked in found.values()]
            for number, values in enumerate(zip(*by_layer), start=1):
                where = what if what == "absolute positions" else f"{what} in {number} GPSA layer{'s' * (number > 1)}"
                rows.append([label["arm"], where, str(estimate(values)), str(len(values))])
    title = f"{results.name}, {results.scale.name}: test accuracy, %"
    return Table(title, ["arm", "masked", "test accuracy, %", "seeds"], rows)


def metrics(results: Results) -> Table:
    """Non-locality of trained models by layer: on true inputs, and by the published shortcut."""
    rows = []
    for label in results.labels:
        found = results.outcome("metric", **label)
        for layer in range(len(next(iter(found.values()))["true"])):
            true, cut = ({seed: mean(value[how][layer]) for seed, value in found.items()}
                         for how in ("true", "shortcut"))  # fmt: skip
            rows.append([label["arm"], str(layer + 1), f"{mean(true.values()):.2f}", f"{mean(cut.values()):.2f}",
                         compare(cut, true).shown(2, "+")])  # fmt: skip
    return Table(
        f"{results.name}, {results.scale.name}: non-locality in patches",
        ["arm", "layer", "true inputs", "shortcut", "shortcut - true"], rows,
    )  # fmt: skip


SPEED = "GPSA's fast form takes less time than its readable form and timm's, at inference and in training"
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


def speed_verdict(cases: Iterable[Timed]) -> str:
    """C15: holds if the fast form is the faster in all cases, in part if in some; and where it was timed."""
    cases = list(cases)
    won = [case.faster for case in cases]
    where = {"cpu": "on a CPU", "cuda": "on a GPU"}
    devices = " and ".join(where.get(device, device) for device in sorted({case.device for case in cases}))
    return f"{'holds' if all(won) else 'holds in part' if any(won) else 'contradicted'} {devices}"


TABLES = {
    "search": (searched,), "sample_efficiency": (accuracies, gaps), "dynamics": (accuracies, depth_profile),
    "masking": (masks,), "metric": (metrics,), "cutmix": (accuracies, depth_profile), "checkpoints": (accuracies,),
    "distillation": (accuracies, depth_profile), "search_recast": (searched,), "search_starts": (searched,),
}  # fmt: skip


def tables(results: Results) -> list[Table]:
    """Every table of an experiment."""
    return [table(results) for table in TABLES.get(results.name, (accuracies,))]


# --- what the command line prints


def _present(scale: str, folder: Path) -> list[str]:
    return [name for name in NAMES if records.path_of(folder, scale, name).is_file()]


def listing(out: Path) -> str:
    """What experiments there are, and how many runs are recorded at each scale: shipped, and in `out`."""
    rows = []
    for name in NAMES:
        told = (getattr(Grid, name).__doc__ or "").split("\n")[0]
        counts = []
        for folder in (records.shipped(), out):
            found = {scale: len(Results(name, scale, folder).runs) for scale in SCALES}
            counts.append(", ".join(f"{scale} {number}" for scale, number in found.items() if number) or "-")
        rows.append([name, *counts, told])
    measured = len(timed())
    rows.append(["speed", f"{measured} rows", "-", "A view of the benchmarks' records: make bench."])
    return str(Table("Experiments, and runs recorded", ["name", "shipped", str(out), "what"], rows))


def text(names: Sequence[str], scale: str | None, out: Path) -> str:
    """Every table and verdict of these experiments (all where none is named), shipped and in `out`.

    Raises:
        ValueError: an unknown experiment or scale, a record that cannot be read, or nothing recorded at all.
    """
    from .claims import verdicts

    unknown = [name for name in names if name not in (*NAMES, "speed")]
    if unknown or (scale and scale not in SCALES):
        what = f"experiment {unknown[0]!r}" if unknown else f"scale {scale!r}"
        raise ValueError(f"Unknown {what}; known: {', '.join((*NAMES, 'speed'))}; scales: {', '.join(SCALES)}.")
    wanted = list(names) or [*NAMES, "speed"]
    parts = []
    for whose, folder in (("Shipped with the package", records.shipped()), (f"Your own, in {out}", out)):
        for each in [scale] if scale else SCALES:
            found = [Results(name, each, folder) for name in _present(each, folder) if name in wanted]
            shown = [str(table) for results in found if results for table in tables(results)]
            shown += [f"{results.name}: {len(results.failed)} failed run(s): {results.failed[0]['error']}"
                      for results in found if results.failed]  # fmt: skip
            if shown:
                card = verdicts([results.name for results in found], each, folder)
                parts += [f"== {whose}, scale {each} ==", *shown, *([str(card)] if card.rows else [])]
    for each in [scale] if scale else SCALES:
        pairs = [(Results(name, each), Results(name, each, out)) for name in _present(each, out) if name in wanted]
        shown = [str(beside(*pair)) for pair in pairs if all(pair)]
        parts += [f"== Yours beside the shipped, scale {each} ==", *shown] if shown else []
    if "speed" in wanted and (table := speeds()).rows:
        parts.append(str(table))
    if not parts:
        raise ValueError(f"Nothing is recorded of {', '.join(wanted)}; run it first: python -m convit_edu run NAME")
    return "\n\n".join(parts)
