"""Testing: where a model runs, its logits and its accuracy, and its mode put back afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .data import Dataset


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """`device`, where "auto" is the first there is of CUDA, Apple's GPU (MPS) and the CPU."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def usable_device(name: str) -> torch.device:
    """`pick_device` for a name that somebody typed: ValueError if it is none, or if there is no such device here."""
    try:
        device = pick_device(name)
    except RuntimeError:
        raise ValueError(f"Unknown device {name!r}; known: cpu, cuda, mps, auto.") from None
    gpus = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= gpus.get(device.type, device.type == "cpu"):
        raise ValueError(f"There is no device {name} here that PyTorch can use; leave --device out to take the best.")
    return device


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode within this context, and after it every part of it in the mode it was in."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@torch.no_grad()
def logits_of(model: nn.Module, data: Dataset, images: Tensor) -> Tensor:
    """The logits (B, num_classes) of images (B, C, h, w) of a data set, bytes as pixels.

    Raises ValueError where model and data do not fit, and FloatingPointError for logits that are not finite.
    """
    try:
        logits = model(data.normalize(images))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        shape = tuple(images.shape[1:])
        reason = str(error).partition("\n")[0]
        raise ValueError(f"The model cannot read images of {data.name}, (C, h, w) = {shape}: {reason}") from error
    found, expected = getattr(logits, "shape", None), (len(images), data.num_classes)
    if found != expected:
        raise ValueError(
            f"{data.name} has {data.num_classes} classes: for {len(images)} images the model must give logits "
            f"{expected}, not {found and tuple(found)}; build it with num_classes={data.num_classes}."
        )
    if not logits.isfinite().all():
        raise FloatingPointError("The model gives logits that are not finite: NaN or infinite.")
    return logits


def evaluate(model: nn.Module, data: Dataset, device: str | torch.device = "auto", batch_size: int = 500) -> float:
    """Test accuracy in per cent. The model is moved to `device` and stays there, in the mode that it was in.

    Raises ValueError where model and data do not fit, and FloatingPointError for logits that are not finite.
    """
    device = pick_device(device)
    model.to(device)
    correct = 0
    with evaluating(model):
        for images, labels in zip(*(each.split(batch_size) for each in (data.test_images, data.test_labels))):
            said = logits_of(model, data, images.to(device)).argmax(1)  # (B,)
            correct += (said == labels.to(device)).sum().item()
    return 100 * correct / len(data.test_labels)
