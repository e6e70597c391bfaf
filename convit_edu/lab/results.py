"""Numbers from recorded runs: by label and seed, as means with intervals, as differences paired by seed.

An interval is Student's, 95 %, over seeds; a comparison is the mean of differences paired by seed. Both speak of
seeds and subsets, not of the choice of test images.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import mean, stdev

from . import records
from .experiments import NAMES, Cell, Settings, check_name, choose, closest, grid
from .scales import SCALES, Scale

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


def cells_of(name: str, scale: Scale, folder: str | Path) -> list[Cell]:
    """The cells of an experiment with the learning rates of the search in a folder, or of the shipped one.

    ValueError for an unknown name, or where neither search is complete.
    """
    check_name(name)
    return cells(name, scale, None if name == "search" else settings(scale, folder))


cells = lru_cache(maxsize=200)(grid)  # the same objects again: a configuration names itself once


def settings(scale: Scale, folder: str | Path) -> Settings:
    """What the search in a folder chose, where it is complete, else what the shipped one chose. ValueError if none."""
    return _settings(scale, str(folder), records.version(folder), str(records.shipped()))


@lru_cache(maxsize=100)
def _settings(scale: Scale, folder: str, version: tuple, shipped: str) -> Settings:
    try:
        return choose(recorded("search", scale, folder), scale)
    except records.RecordError:
        raise
    except ValueError:
        return choose(recorded("search", scale, shipped), scale)


def recorded(name: str, scale: Scale, folder: str | Path) -> list[dict]:
    """The runs of an experiment, in the order of its grid and then by seed, each with the label of its cell."""
    found = _by_config(*records.version(folder))
    return [
        {"label": cell.label} | run
        for cell in cells_of(name, scale, folder)
        for run in found.get(cell.config.identity(0), ())
        if cell.seeds is None or run["seed"] in cell.seeds
    ]


@lru_cache(maxsize=16)
def _by_config(*version) -> dict[str, list[dict]]:
    """The runs of a folder by the identity that they would have with seed 0, each list by seed."""
    found: dict[str, list[dict]] = {}
    for run in sorted(records.read_version(*version).values(), key=lambda run: run["seed"]):
        found.setdefault(run["config"].identity(0), []).append(run)
    return found


def unasked(folder: str | Path) -> list[str]:
    """The ids of recorded runs that no experiment at any scale asks for any more; they are kept all the same."""
    known = set()
    for scale in SCALES.values():
        for name in NAMES:
            try:
                known |= {cell.config.identity(0) for cell in cells_of(name, scale, folder)}
            except records.RecordError:
                raise
            except ValueError:  # its learning rates are not known
                pass
    return [run_id for run_id, run in records.read_all(folder).items() if run["config"].identity(0) not in known]


class Results:
    """The runs of one experiment at one scale, to ask for numbers by label.

    `folder` is a folder of records; the shipped one where None.
    """

    def __init__(self, name: str, scale: str = "laptop", folder: str | Path | None = None):
        check_name(name)
        if scale not in SCALES:
            raise ValueError(f"Unknown scale {scale!r}{closest(scale, SCALES)}; known: {', '.join(SCALES)}.")
        self.name, self.scale = name, SCALES[scale]
        try:
            runs = recorded(name, self.scale, records.shipped() if folder is None else folder)
        except records.RecordError:
            raise
        except ValueError:  # no search at this scale, so nothing that could be asked for
            runs = []
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
