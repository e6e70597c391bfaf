"""Means with intervals, differences paired by seed, their p-values and their power; all of it Student's.

Intervals are at 95 %, over seeds: they speak of seeds and subsets, not of the choice of test images.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, mean, stdev


def inside(t: float, freedom: int) -> float:
    """P(|T| < t) of Student's t with so many degrees of freedom: a finite sum."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    if odd:
        return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0))
    return math.sin(angle) * total


@lru_cache
def student_t(freedom: int, confidence: float = 0.95) -> float:
    """The two-sided quantile of Student's t for so many degrees of freedom, e.g. 2.776 for 4."""
    if freedom < 1 or not 0 < confidence < 1:
        raise ValueError(f"student_t needs at least one degree of freedom and a confidence in (0, 1), got {freedom}.")
    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle, freedom) < confidence else (low, middle)
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
    def deviation(self) -> float:
        """The standard deviation of the values."""
        return self.half * math.sqrt(self.n) / student_t(self.n - 1) if self.n > 1 else math.nan

    @property
    def p(self) -> float:
        """The two-sided p-value of a mean of 0; NaN for one seed."""
        if self.n < 2:
            return math.nan
        if not self.half:  # no spread at all
            return float(self.mean == 0)
        return 1 - inside(student_t(self.n - 1) * abs(self.mean) / self.half, self.n - 1)

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


def power(effect: float, deviation: float, n: int) -> float:
    """The probability that the 95 % interval of n paired differences lies on the right side of 0.

    For differences whose true mean is `effect` and whose standard deviation is `deviation`: the noncentral t
    distribution, a normal distribution averaged over the deviations that n values may show. Without any spread it is 1.
    """
    if not deviation:
        return 1.0
    freedom, points = n - 1, 2000
    shift, limit = abs(effect) * math.sqrt(n) / deviation, student_t(freedom)
    top = 1 + 8 / math.sqrt(2 * freedom)  # in units of the true deviation; beyond it nothing is left
    shown = [top * (k + 0.5) / points for k in range(points)]
    weights = [math.exp(freedom * (math.log(s) - s * s / 2 + 0.5) - math.log(s)) for s in shown]
    reached = [NormalDist().cdf(shift - limit * s) for s in shown]
    return sum(w * r for w, r in zip(weights, reached)) / sum(weights)


def holm(values: Iterable[float]) -> list[float]:
    """p-values after Holm's correction for being so many, in their order. NaN stays, and does not count."""
    values = list(values)
    ordered = sorted((p, k) for k, p in enumerate(values) if not math.isnan(p))
    answer, worst = [math.nan] * len(values), 0.0
    for rank, (p, k) in enumerate(ordered):
        worst = max(worst, min(1.0, (len(ordered) - rank) * p))
        answer[k] = worst
    return answer
