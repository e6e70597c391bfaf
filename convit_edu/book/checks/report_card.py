"""Checks for the exercises of the report card: how far a set of verdicts can be trusted."""

import math
from collections.abc import Callable

from ...lab.intervals import student_t
from .verdict import NotYet, exercise, given, tell, tensor


def _number(answer: object, what: str) -> float:
    return tensor(answer, (), what).item()


@exercise
def check_false_holds(expected: Callable[[int, int], float]) -> None:
    """`expected(one_sided, two_sided)`: how many comparisons hold by chance if every true difference is 0."""
    for one, two in ((23, 4), (20, 0), (0, 20)):
        found, right = _number(expected(one, two), "the expected number"), 0.025 * one + 0.05 * two
        tell(found, right, {
            "5 % of all intervals leave 0 out, but a one-sided comparison holds only where the interval lies above 0, "
            "and that is half of them": 0.05 * (one + two),
            "a two-sided comparison holds on either side of 0, so count both": 0.025 * (one + two),
            "you have the two kinds the wrong way round": 0.05 * one + 0.025 * two,
            "this is the chance of at least one; asked for is the expected number": 1 - 0.95 ** (one + two),
        }, f"{one} one-sided and {two} two-sided comparisons, you say {found:g}; ",
            "think of a single comparison first", within=1e-6 * right)  # fmt: skip


@exercise
def check_corrected(corrected: Callable[[float, float, int, int], tuple[float, float]]) -> None:
    """`corrected(mean, half, n, m)`: the interval at confidence 1 - 0.05 / m, from the 95 % one of n seeds."""
    for mean, half, n, m in ((4.0, 2.0, 5, 1), (8.0, 3.0, 5, 10), (-2.0, 1.0, 10, 27)):
        low, high = (_number(bound, "a bound") for bound in given(corrected(mean, half, n, m)))
        right = half * student_t(n - 1, 1 - 0.05 / m) / student_t(n - 1)
        found = (high - low) / 2
        where = f"with mean {mean:g}, half-width {half:g}, {n} seeds and {m} comparisons"
        if not math.isclose((high + low) / 2, mean, rel_tol=1e-6):
            raise NotYet(f"{where} your interval is not centred on the mean.")
        tell(found, right, {
            "the half-width does not grow with the number of comparisons itself, but with the quantile": half * m,
            "nothing has changed: use the quantile for the confidence 1 - 0.05 / m": half,
            "n seeds have n - 1 degrees of freedom": half * student_t(n, 1 - 0.05 / m) / student_t(n),
            "divide by the old quantile: `half` holds it already": half * student_t(n - 1, 1 - 0.05 / m),
        }, f"{where} your half-width is {found:.3f}; ",
            "take the ratio of two quantiles", within=1e-6 * right)  # fmt: skip


@exercise
def check_seeds_needed(needed: Callable[[float, int, float], int]) -> None:
    """`needed(half, n, wanted)`: the least number of seeds whose 95 % half-width is `wanted`, if the spread stays."""
    for half, n, wanted in ((7.5, 5, 3.0), (4.0, 5, 4.5), (6.0, 5, 1.0)):
        spread = half / student_t(n - 1) * math.sqrt(n)
        right = next(k for k in range(2, 10**6) if student_t(k - 1) * spread / math.sqrt(k) <= wanted)
        found = _number(needed(half, n, wanted), "the number of seeds")
        if found == right:
            continue
        same = math.ceil(n * (half / wanted) ** 2)
        words = {
            math.ceil(n * half / wanted): "the half-width shrinks with the root of the number of seeds",
            same: "the root is right, but the quantile shrinks too when there are more seeds",
            right + 1: "one fewer would do",
            right - 1: "one more is needed",
        }
        why = words.get(found, "find the spread of one seed first, then try 2, 3, 4, ... seeds")
        raise NotYet(f"half-width {half:g} with {n} seeds, {wanted:g} wanted: you say {found:g}; {why}.")
