"""Checks for the exercises of chapter 06: training."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...model import create_model
from ...train import Recipe
from .verdict import NotYet, exercise, given, tell, tell_half_width


@exercise
def check_learning_rate(rate: Callable[..., float]) -> None:
    """A function (step, steps, warmup, highest, lowest) -> learning rate."""
    recipe = Recipe(steps=100, warmup_steps=10, lr=0.4, min_lr=0.04)
    answers = [rate(step, 100, 10, 0.4, 0.04) for step in range(100)]
    if any(answer is None or answer is ... for answer in answers):
        raise NotYet("the function returns nothing for some steps.")
    expected = [recipe.learning_rate(step) for step in range(100)]
    wrong = [step for step in range(100) if abs(answers[step] - expected[step]) > 1e-9]
    if not wrong:
        return
    if abs(answers[0]) < 1e-9:
        raise NotYet("the first step has rate 0 and would change nothing; warm-up counts from t + 1.")
    if max(wrong) < 10:
        raise NotYet(f"the warm-up is off: step {wrong[0]} of 10 should have {expected[wrong[0]]:.3f}.")
    if min(answers) < 0.039:
        raise NotYet("the rate falls below the lowest; the cosine runs between highest and lowest.")
    if abs(answers[55] - recipe.learning_rate(50)) < 0.03 or abs(answers[10] - 0.4) > 1e-9:
        raise NotYet("the cosine starts when the warm-up ends: subtract the warm-up from step and steps.")
    raise NotYet(f"step {wrong[0]} should have {expected[wrong[0]]:.4f}, yours is {answers[wrong[0]]:.4f}.")


@exercise
def check_decays(decays: Callable[[str, Tensor], bool]) -> None:
    """A function (name, parameter) -> whether weight decay applies."""
    for name, parameter in create_model("convit_mini_28").named_parameters():
        answer = given(decays(name, parameter), f" for {name}")
        expected = parameter.ndim > 1 and name not in ("cls_token", "pos_embed")
        if bool(answer) != expected:
            shape = tuple(parameter.shape)
            if expected:
                raise NotYet(f"{name} {shape} is a matrix (or a stack of filters) and is decayed.")
            if parameter.ndim > 1:
                raise NotYet(f"{name} {shape} is a token or a position, not a matrix that multiplies an input.")
            raise NotYet(f"{name} {shape} is no matrix: biases, norms and gates are spared.")


@exercise
def check_subset(subset: Callable[[Tensor, int, int], Tensor]) -> None:
    """A function (labels, per_class, seed) -> indices of a balanced, seeded, nested subset."""
    labels = torch.randint(0, 5, (400,), generator=torch.Generator().manual_seed(0))
    small, again, large, other = (subset(labels, n, seed) for n, seed in ((4, 0), (4, 0), (9, 0), (4, 1)))
    small, again, large, other = (torch.as_tensor(answer) for answer in (given(small), again, large, other))
    if small.shape != (20,):
        raise NotYet(f"4 images of each of 5 classes are 20 indices; yours have shape {tuple(small.shape)}.")
    if len(set(small.tolist())) < 20:
        raise NotYet("some image is there twice.")
    if torch.bincount(labels[small], minlength=5).tolist() != [4] * 5:
        raise NotYet(f"not balanced: the classes have {torch.bincount(labels[small], minlength=5).tolist()} images.")
    if not torch.equal(small, again):
        raise NotYet("the same seed gives another subset; draw from a generator made with the seed.")
    if set(small.tolist()) == set(other.tolist()):
        raise NotYet("another seed gives the same subset; is the seed used?")
    if not set(small.tolist()) <= set(large.tolist()):
        raise NotYet("not nested: some of the 4 images a class are not among the 9; shuffle once.")


@exercise
def check_paired_interval(interval: Callable[..., tuple]) -> None:
    """A function (a, b) -> mean paired difference and half-width of its 95 % interval, for five seeds."""
    a, b = torch.tensor([[62.0, 60.5, 64.0, 58.5, 61.0], [46.0, 45.5, 47.0, 43.5, 44.0]], dtype=torch.float64)
    mean, half = (float(part) for part in given(interval(a.tolist(), b.tolist())))
    why = "b - a is the wrong way round" if mean < 0 else "average a - b"
    tell(mean, (a - b).mean().item(), {}, "the mean difference is off; ", why)
    independent = 2.776 * ((a.var() + b.var()) / 5).sqrt().item()
    tell_half_width(half, a - b, {
        "you treat the arms as independent; take the spread of the differences": independent,
    })  # fmt: skip


@exercise
def check_race(accuracies: dict[str, list[float]]) -> None:
    """Test accuracies in per cent by arm, one a seed: was the race fair?"""
    if len(accuracies) < 4:
        raise NotYet(f"there are {len(accuracies)} arms; add the late token and GPSA without its start.")
    seeds = {arm: len(values) for arm, values in accuracies.items()}
    if len(set(seeds.values())) > 1:
        raise NotYet(f"the arms have different numbers of seeds: {seeds}; a pair needs both.")
    if min(seeds.values()) < 2:
        raise NotYet("one seed gives no interval; run at least two.")
    values = torch.tensor(list(accuracies.values()), dtype=torch.float64)
    if values.min() < 0 or values.max() > 100 or values.max() <= 1:
        raise NotYet("accuracies are wanted in per cent, between 0 and 100.")
    if len({tuple(arm) for arm in values.tolist()}) < len(accuracies):
        raise NotYet("two arms have the same accuracies at every seed; did both get their own model?")
