"""From recorded runs to tables and verdicts: what the chapters show, and what the command line prints."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from . import records
from .claims import speeds, timed, verdicts
from .experiments import NAMES, Grid, check_name, scores
from .intervals import Estimate, Missing, compare, estimate, paired, student_t
from .results import Results, unasked
from .scales import SCALES
from .tables import Table, percent

# What a chapter asks for by report.NAME, wherever it is made.
__all__ = ["Estimate", "Missing", "Results", "Table", "compare", "estimate", "paired", "percent", "speeds", "student_t",
           "accuracies", "depth_profile", "gaps", "layers", "listing", "masks", "metrics", "searched", "tables", "text"]

# --- tables


def wording(label: dict) -> list[str]:
    """The entries of a label as they are shown."""
    show = {"gain": lambda gain: start(gain) if gain else "-", "fraction": percent, "lr": "{:g}".format,
            "strength": lambda s: "-" if s is None else f"{s:g}"}  # fmt: skip
    return [show.get(key, str)(value) for key, value in label.items()]


HEADINGS = {"gain": "start", "fraction": "data", "lr": "learning rate", "layers": "GPSA layers"}


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
    """A search: held-out accuracy of every arm at every learning rate and start, the best of an arm in brackets."""
    gains = list(dict.fromkeys(run["label"].get("gain") for run in results.runs))
    table = {gain: scores(results.runs, gain) for gain in gains}
    rates = sorted({rate for by_arm in table.values() for by_rate in by_arm.values() for rate in by_rate})
    arms = list(dict.fromkeys(run["label"]["arm"] for run in results.runs))
    best = {arm: max(max(by_arm[arm].values()) for by_arm in table.values() if arm in by_arm) for arm in arms}

    def shown(arm: str, by_rate: dict[float, float], rate: float) -> str:
        if rate not in by_rate:
            return "-"
        return f"[{by_rate[rate]:.1f}]" if by_rate[rate] == best[arm] else f"{by_rate[rate]:.1f}"

    rows = [
        [arm, *[start(gain, arm)] * (len(gains) > 1), *(shown(arm, table[gain][arm], rate) for rate in rates)]
        for arm in arms for gain in gains if arm in table[gain]
    ]  # fmt: skip
    title = f"{results.name}, {results.scale.name}: held-out accuracy, %, by learning rate"
    return Table(title, ["arm", *["start"] * (len(gains) > 1), *(f"{rate:g}" for rate in rates)], rows)


def start(gain: float | None, arm: str = "ConViT") -> str:
    """The deviation of a matrix with n inputs at the start, by its `init_gain`."""
    return "its own" if arm == "CNN" else "0.02" if gain is None else f"{gain:g} / √n"


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


TABLES = {
    "search": (searched,), "sample_efficiency": (accuracies, gaps), "dynamics": (accuracies, depth_profile),
    "masking": (masks,), "metric": (metrics,), "checkpoints": (accuracies,),
    "distillation": (accuracies, depth_profile), "search_recast": (searched,), "search_starts": (searched,),
}  # fmt: skip


def tables(results: Results) -> list[Table]:
    """Every table of an experiment."""
    return [table(results) for table in TABLES.get(results.name, (accuracies,))]


# --- what the command line prints


def listing(out: Path) -> str:
    """What experiments there are: how many runs are recorded, shipped and in `out`, and how long they took."""
    rows = []
    for name in NAMES:
        told = (getattr(Grid, name).__doc__ or "").split("\n")[0]
        counts, hours = [], 0.0
        for folder in (records.shipped(), out):
            found = {scale: Results(name, scale, folder).runs for scale in SCALES}
            counts.append(", ".join(f"{scale} {len(runs)}" for scale, runs in found.items() if runs) or "-")
            hours = hours or sum(run["meta"]["seconds"] for runs in found.values() for run in runs) / 3600
        rows.append([name, *counts, f"{hours:.1f}", told])
    measured = len(timed())
    rows.append(["speed", f"{measured} rows", "-", "-", "A view of the benchmarks' records: make bench."])
    table = Table("Experiments, and runs recorded", ["name", "shipped", str(out), "hours on one core", "what"], rows)
    return "\n".join([str(table), "Repeat one by: convit-edu run NAME", *_told(out)])


def _told(out: Path) -> list[str]:
    """What is to be said of the runs that no experiment asks for."""
    return [f"{len(more)} run(s) in {folder} belong to no experiment as it is now; they are kept, e.g. "
            f"{records.path_of(folder, more[0])}"
            for folder in (records.shipped(), out) if (more := unasked(folder))]  # fmt: skip


def text(names: Sequence[str], scale: str | None, out: Path) -> str:
    """Every table and verdict of these experiments (all where none is named), shipped and in `out`.

    Raises:
        ValueError: an unknown experiment or scale, a record that cannot be read, or nothing recorded at all.
    """
    for name, known, what in (*((name, (*NAMES, "speed"), "experiment") for name in names), (scale, SCALES, "scale")):
        if name:
            check_name(name, known, what)
    wanted = [name for name in NAMES if not names or name in names]
    scales = [scale] if scale else list(SCALES)
    parts = []
    for whose, folder in (("Shipped with the package", records.shipped()), (f"Your own, in {out}", out)):
        for each in scales:
            found = [Results(name, each, folder) for name in wanted]
            shown = [str(table) for results in found if results for table in tables(results)]
            shown += [f"{results.name}: {len(results.failed)} failed run(s): {results.failed[0]['error']}"
                      for results in found if results.failed]  # fmt: skip
            if shown:
                card = verdicts([results.name for results in found], each, folder)
                parts += [f"== {whose}, scale {each} ==", *shown, *([str(card)] if card.rows else [])]
    for each in scales:
        pairs = [(Results(name, each), Results(name, each, out)) for name in wanted]
        shown = [str(beside(*pair)) for pair in pairs if all(pair)]
        parts += [f"== Yours beside the shipped, scale {each} ==", *shown] if shown else []
    if (not names or "speed" in names) and (table := speeds()).rows:
        parts.append(str(table))
    if not parts:
        what = ", ".join(names) or "any experiment"
        raise ValueError(f"Nothing is recorded of {what}; run it first: convit-edu run NAME")
    return "\n\n".join(parts + _told(out))
