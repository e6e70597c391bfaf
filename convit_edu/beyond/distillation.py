"""Hard distillation (Touvron et al. 2021): a student learns from the labels and from what a trained teacher would say.

No distillation token: the student has one head, and both halves of the loss read it. Chapter 10 uses this module.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Dataset
from ..evaluation import evaluating, logits_of
from ..saving import checksum


def hard_distillation_loss(
    logits: Tensor, targets: Tensor, teacher_logits: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Half the cross-entropy with the label, half that with the class the teacher finds most likely; a mean, in nats.

    `logits` and `teacher_logits` are (B, C); `targets` are labels (B,) or shares (B, C). Smoothing is for the
    labels alone: the teacher's class is taken as it is.
    """
    said = teacher_logits.argmax(1)  # (B,)
    with_label = F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    return (with_label + F.cross_entropy(logits, said)) / 2


class HardDistillation:
    """`hard_distillation_loss` with this teacher, for `train(loss=...)`; it does not read the recipe's label smoothing.

    The teacher sees the very images that the student sees, flipped and cropped alike, in evaluation mode; it is
    moved to their device, and not trained.
    """

    def __init__(self, teacher: nn.Module, label_smoothing: float = 0.0):
        self.teacher, self.label_smoothing = teacher.eval(), label_smoothing
        # A checkpoint of the student goes on with the same teacher alone.
        self.identity = f"hard distillation, smoothing {label_smoothing}, teacher {checksum(teacher)}"

    def __call__(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            said = self.teacher.to(images.device)(images)  # (B, num_classes)
        return hard_distillation_loss(logits, targets, said, self.label_smoothing)


@torch.no_grad()
def predictions(model: nn.Module, images: Tensor, data: Dataset, batch_size: int = 500) -> Tensor:
    """The most likely class (B,) of images (B, C, h, w) with bytes as pixels; the model is left in its mode."""
    with evaluating(model):
        return torch.cat([logits_of(model, data, batch).argmax(1) for batch in images.split(batch_size)])
