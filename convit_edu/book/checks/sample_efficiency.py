"""Checks for the exercises of chapter 07: sample efficiency."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from .verdict import NotYet, exercise, given, tell, tell_half_width


def _numbers(answer: object, count: int, wanted: str) -> list[float]:
    """The answer as so many floats, or NotYet."""
    answer = list(given(answer, f"; {wanted}"))
    if len(answer) != count:
        raise NotYet(f"{wanted}; you return {len(answer)} number{'s' * (len(answer) != 1)}.")
    return [float(value) for value in answer]


@exercise
def check_three_gaps(gaps: Callable[[float, float], Sequence[float]]) -> None:
    """A function (deit, convit), in per cent -> points, per cent of DeiT's accuracy, per cent of DeiT's errors."""
    wanted = "points, per cent of DeiT's accuracy and per cent of DeiT's errors are wanted"
    for deit, convit in ((34.8, 47.8), (79.9, 81.4), (50.0, 40.0)):
        points, relative, errors = _numbers(gaps(deit, convit), 3, wanted)
        d = convit - deit
        what = f"for {deit} against {convit}"
        tell(points, d, {"ConViT's accuracy comes first: convit - deit": -d}, f"points, {what}: ")
        tell(relative, 100 * d / deit, {
            "in per cent, please: multiply by 100": d / deit,
            "the paper divides by DeiT's accuracy, you by ConViT's": 100 * d / convit,
            "this is the ratio; the gap is what it exceeds 100 by": 100 * convit / deit,
        }, f"relative gap, {what}: ")  # fmt: skip
        tell(errors, 100 * d / (100 - deit), {
            "in per cent, please: multiply by 100": d / (100 - deit),
            "divide by DeiT's errors, 100 - deit; these are ConViT's": 100 * d / (100 - convit),
            "count the errors that ConViT saves as positive": -100 * d / (100 - deit),
        }, f"errors, {what}: ")  # fmt: skip


@exercise
def check_budget(budget: Callable[..., Sequence[float]]) -> None:
    """A function (images, fraction, epochs, batch_size) -> steps and epochs on the subset, at equal images seen."""
    for images, fraction, epochs, batch in ((5000, 0.2, 16, 32), (1000, 0.05, 8, 50), (1000, 1.0, 4, 40)):
        what = f"{fraction:g} of {images:,} images, {epochs} epochs on all of them, batches of {batch}"
        found = budget(images, fraction, epochs, batch)
        steps, passes = _numbers(found, 2, "steps, and epochs on the subset, are wanted")
        right = images * epochs / batch
        tell(steps, right, {
            "these steps see fewer images with less data: equal epochs, not equal images seen": right * fraction,
            "these are the images seen; a step takes a batch of them": images * epochs,
            "divide by the batch: a step sees that many images": images * epochs * batch,
            "these are the steps of one epoch": images / batch,
            "the number of steps does not depend on the fraction": right / fraction,
        }, f"{what}, steps: ")  # fmt: skip
        tell(passes, epochs / fraction, {
            "an epoch on the subset is shorter, so equally many images make more of them": epochs,
            "the wrong way round: the smaller the subset, the more often each image is seen": epochs * fraction,
        }, f"{what}, epochs: ")  # fmt: skip


@exercise
def check_gap_difference(difference: Callable[..., Sequence[float]]) -> None:
    """A function of four lists, ConViT and DeiT on few and on all images, five seeds -> mean and half-width."""
    few = torch.tensor([[60.0, 57.5, 63.0, 58.0, 61.5], [46.0, 45.5, 47.5, 43.0, 49.0]], dtype=torch.float64)
    full = torch.tensor([[72.0, 73.5, 71.0, 72.5, 74.0], [64.5, 67.0, 64.0, 66.5, 66.0]], dtype=torch.float64)
    found = difference(*few.tolist(), *full.tolist())
    mean, half = _numbers(found, 2, "a mean and a half-width are wanted")
    gaps = few[0] - few[1], full[0] - full[1]
    d = gaps[0] - gaps[1]
    tell(mean, d.mean().item(), {
        "the gap on few images comes first: few minus all": -d.mean().item(),
        "you have added the two gaps": (gaps[0] + gaps[1]).mean().item(),
        "this is the gap on few images alone": gaps[0].mean().item(),
    }, "the mean is off: ")  # fmt: skip
    halves = [2.776 * gap.std().item() / 5**0.5 for gap in gaps]
    spread = sum(arm.var().item() for arm in (*few, *full))
    tell_half_width(half, d, {
        "you add the half-widths of the two gaps; take one difference of gaps for each seed instead": sum(halves),
        "you treat the two gaps as independent, but they share their seeds: pair them too": math.hypot(*halves),
        "you treat all four lists as independent, but they share their seeds": 2.776 * (spread / 5) ** 0.5,
    })  # fmt: skip


STEPS_TO_SPEND = 40_000


@exercise
def check_plan(runs: Iterable[Mapping]) -> None:
    """Runs as dictionaries of arm, fraction, steps and seed: can they tell data and steps apart, at equal chances?"""
    if runs is None or runs is ...:
        raise NotYet(f"the plan is {runs}; a list of runs is wanted.")
    runs = list(runs)
    if not runs:
        raise NotYet("the plan has no runs yet.")
    for run in runs:
        missing = [key for key in ("arm", "fraction", "steps", "seed") if key not in run]
        if missing:
            raise NotYet(f"a run says nothing of its {' and '.join(missing)}: {dict(run)}.")
    arms, fractions, steps = ({run[key] for run in runs} for key in ("arm", "fraction", "steps"))
    if arms != {"ConViT", "DeiT"}:
        raise NotYet(f"the arms should be ConViT and DeiT, yours are {', '.join(sorted(arms))}.")
    cells = {arm: {(r["fraction"], r["steps"], r["seed"]) for r in runs if r["arm"] == arm} for arm in arms}
    if sum(map(len, cells.values())) < len(runs):
        raise NotYet("some run is there twice; the same seed gives the same result.")
    if cells["ConViT"] != cells["DeiT"]:
        fraction, step, seed = min(cells["ConViT"] ^ cells["DeiT"])
        raise NotYet(f"only one arm runs {100 * fraction:g} % for {step} steps with seed {seed}; a pair needs both.")
    if len(fractions) < 2:
        raise NotYet("there is one amount of data: a gap cannot be seen to change with it.")
    if len(steps) < 2:
        raise NotYet("there is one number of steps: a gap that is speed would look like a gap that is data.")
    there = {(run["fraction"], run["steps"]) for run in runs}
    if len(there) == len(fractions):
        raise NotYet("every fraction has its own number of steps: data and steps vary together.")
    absent = sorted(set(itertools.product(fractions, steps)) - there)
    if absent:
        raise NotYet(f"not crossed: nothing runs with {100 * absent[0][0]:g} % of the data for {absent[0][1]} steps.")
    seeds = {cell: {run["seed"] for run in runs if (run["fraction"], run["steps"]) == cell} for cell in there}
    if len(set(map(frozenset, seeds.values()))) > 1:
        raise NotYet("the cells have different seeds; then their gaps cannot be paired.")
    if len(next(iter(seeds.values()))) < 3:
        raise NotYet("fewer than three seeds: with two, t is 12.7 and hardly any interval leaves 0 out.")
    if max(steps) < 2 * min(steps):
        raise NotYet("the two budgets are nearly the same; give the long one at least twice the steps.")
    if (spent := sum(run["steps"] for run in runs)) > STEPS_TO_SPEND:
        raise NotYet(f"the plan takes {spent:,} steps, and there are {STEPS_TO_SPEND:,}.")
