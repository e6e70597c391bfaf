"""Checks for the exercises of chapter 10: a teacher with convolutions."""

from collections.abc import Callable, Mapping
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor

from ...beyond.distillation import hard_distillation_loss
from .verdict import NotYet, close, diagnose, exercise, random_tensor, tensor


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


@exercise
def check_distillation_loss(loss: Callable[..., Tensor]) -> None:
    """A function (student's logits (B, C), labels (B,), teacher's logits (B, C)) -> the loss of hard distillation."""
    logits, teacher = 2 * random_tensor(0, 5, 5), 2 * random_tensor(1, 5, 5)
    labels = torch.tensor([0, 1, 2, 3, 4])
    answer = loss(logits, labels, teacher)
    if answer is None or answer is ...:
        raise NotYet(f"the function returned {answer}.")
    answer = torch.as_tensor(answer, dtype=torch.float64)
    if answer.ndim:
        raise NotYet(f"one number is wanted, the mean over the batch; yours has shape {tuple(answer.shape)}.")
    said, with_label = teacher.argmax(1), F.cross_entropy(logits, labels)
    with_teacher, soft = F.cross_entropy(logits, said), F.cross_entropy(logits, teacher.softmax(1))
    mistakes = {
        "the halves are missing: this is the sum of both cross-entropies.": with_label + with_teacher,
        "this is the label's half alone, not halved.": with_label,
        "this is the label's half alone; add the teacher's.": with_label / 2,
        "this is the teacher's half alone, not halved.": with_teacher,
        "this is the teacher's half alone; add the label's.": with_teacher / 2,
        "this is soft distillation: the teacher's probabilities. Hard distillation takes its most likely class.":
            (with_label + soft) / 2,
        "the classes run along dimension 1; your argmax runs over the batch.":
            (with_label + F.cross_entropy(logits, teacher.argmax(0))) / 2,
        "the teacher is scored against the student; it is the student who learns.":
            (with_label + F.cross_entropy(teacher, logits.argmax(1))) / 2,
        "softmax has been taken already: cross_entropy wants logits.":
            (F.cross_entropy(logits.softmax(1), labels) + F.cross_entropy(logits.softmax(1), said)) / 2,
    }  # fmt: skip
    right = hard_distillation_loss(logits, labels, teacher)
    diagnose(answer, right, mistakes, f"for the test logits it should be {right:.4f}, yours is {answer:.4f}.")


@exercise
def check_least_loss(least: Callable[[float], float]) -> None:
    """A function: share of images on which teacher and label differ -> the least loss possible, without smoothing."""
    shares = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=torch.float64)
    answer = torch.stack([tensor(least(share), ()) for share in shares.tolist()])
    mistakes = {
        "the loss cannot become 0 where two targets contradict each other: the best answer is half and half.":
            torch.zeros(4),
        "both halves cost ln 2 there, and each counts one half: together ln 2, not twice that.": 2 * shares * log(2),
        "each half costs ln 2 there, and there are two halves of one half.": shares * log(2) / 2,
        "this is where they agree; agreement costs nothing.": (1 - shares) * log(2),
        "this is in bits; cross_entropy counts in nats, with the natural logarithm.": shares,
        "this is the entropy of differing at all; what does a single image cost on which they differ?":
            -torch.special.xlogy(shares, shares) - torch.special.xlogy(1 - shares, 1 - shares),
    }  # fmt: skip
    diagnose(answer, shares * log(2), mistakes,
             f"for a tenth it is {0.1 * log(2):.4f}, yours {answer[1]:.4f}.")  # fmt: skip


Runs = Mapping[int, float]


@exercise
def check_interaction(interaction: Callable[[Runs, Runs, Runs, Runs], Runs]) -> None:
    """A function (DeiT, DeiT taught, ConViT, ConViT taught), accuracy by seed -> the interaction by seed.

    That is the gain of DeiT minus the gain of ConViT.
    """
    values = (60 + 5 * random_tensor(0, 4, 3)).tolist()
    deit, deit_taught, convit, convit_taught = ({s: v for s, v in zip((0, 1, 2), row)} for row in values)
    answer = interaction(deit, deit_taught, convit, convit_taught)
    if answer is None or answer is ...:
        raise NotYet(f"the function returned {answer}.")
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
