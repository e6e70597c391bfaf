"""Checks for the exercises of chapter 10: locality without GPSA."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .verdict import NotYet, close, diagnose, exercise, given, random_tensor, tensor


@exercise
def check_mean_target(target: Callable[..., Tensor]) -> None:
    """A function (labels (B,), said (B,), classes, smoothing) -> what the student should answer, (B, C)."""
    labels, said = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 2, 2, 1])
    for smoothing in (0.0, 0.2):
        answer = tensor(target(labels, said, 4, smoothing), (4, 4))
        one, other = (F.one_hot(x, 4).double() for x in (labels, said))

        def soft(x: Tensor) -> Tensor:
            return (1 - smoothing) * x + smoothing / 4  # noqa: B023

        right = (soft(one) + other) / 2
        mistakes = {
            "this is the sum of the two halves; each row must sum to 1.": soft(one) + other,
            "this is the label alone; where is the teacher's half?": soft(one),
            "this is the teacher alone; where is the label's half?": other,
        }
        if smoothing:
            mistakes |= {
                "you left the smoothing out; it belongs to the label's half.": (one + other) / 2,
                "you smooth both halves; the teacher's class is taken as it is.": soft((one + other) / 2),
                "you smooth the teacher's half; smoothing is for the labels.": (one + soft(other)) / 2,
                "smoothing is spread over all classes, the true one included: (1 - s) at it, and s / C at each.":
                    ((1 - smoothing) * one + smoothing / 3 * (1 - one) + other) / 2,
            }  # fmt: skip
        diagnose(answer, right, mistakes, "each row is the mean of the label's share and the teacher's class.")


Runs = Mapping[int, float]


@exercise
def check_interaction(interaction: Callable[[Runs, Runs, Runs, Runs], Runs]) -> None:
    """A function (DeiT, DeiT taught, ConViT, ConViT taught), accuracy by seed -> the interaction by seed.

    That is the gain of DeiT minus the gain of ConViT.
    """
    values = (60 + 5 * random_tensor(0, 4, 3)).tolist()
    deit, deit_taught, convit, convit_taught = ({s: v for s, v in zip((0, 1, 2), row)} for row in values)
    answer = given(interaction(deit, deit_taught, convit, convit_taught))
    if not isinstance(answer, Mapping):
        raise NotYet("keep one value a seed, in a dict: an interval needs them.")
    if set(answer) != {0, 1, 2}:
        raise NotYet(f"the seeds are 0, 1 and 2; your answer has {sorted(answer)}.")
    found = torch.tensor([answer[seed] for seed in (0, 1, 2)], dtype=torch.float64)
    a, b, c, d = (torch.tensor(row, dtype=torch.float64) for row in values)
    mistakes = {
        "the sign is turned: DeiT's gain comes first.": (d - c) - (b - a),
        "this is DeiT's gain; take ConViT's away from it.": b - a,
        "this is ConViT's gain; it is taken away from DeiT's.": d - c,
        "gains are with teacher minus without; yours are without minus with.": (a - b) - (c - d),
        "this is the gap among the taught alone; the gap that was there before must go.": b - d,
        "you add the gains; the question is by how much they differ.": (b - a) + (d - c),
        "the two arms' means are subtracted; keep the seeds apart.":
            ((b - a).mean() - (d - c).mean()).expand(3),
    }  # fmt: skip
    right = (b - a) - (d - c)
    if close(found, (a - b) - (c - d)):  # the same numbers as a turned sign: say the likelier mistake
        raise NotYet("the sign is turned: with minus without, and DeiT's gain first.")
    diagnose(found, right, mistakes, "it is (DeiT taught - DeiT) - (ConViT taught - ConViT), seed by seed.")
