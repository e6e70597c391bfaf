"""Numbers from recorded runs: by label and seed, as means with intervals, as differences paired by seed.

An interval is Student's, 95 %, over seeds; a comparison is the mean of differences paired by seed. Both speak of
seeds and subsets, not of the choice of test images.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from . import records
from .experiments import NAMES
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
