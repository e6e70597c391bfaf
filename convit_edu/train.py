"""Training: one recipe for ConViT and DeiT alike (Section 4, at the size of one machine).

AdamW with decay on matrices only, linear warm-up and cosine decay, label smoothing, stochastic depth, flips
and padded crops. A run is fixed by its recipe and seed, can be interrupted, and resumes from its checkpoint
exactly: every random number of a step depends on the seed and the step alone.
"""

import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from tqdm.auto import tqdm

from .augment import augment
from .data import Dataset, batches, seeded
from .evaluation import evaluate, evaluating, pick_device
from .saving import identity_of, load_checkpoint, one_writer, save_checkpoint, set_weights, storable, unwrapped

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # images, logits, targets -> a number
Measure = Callable[[nn.Module, int], dict]  # model, steps done -> what was found, by name

RANGES = (  # names of settings, their least and largest value, and that in words
    ("steps batch_size evaluations", 1, sys.float_info.max, "a whole number of at least 1"),
    ("warmup_steps crop_padding seed", 0, sys.float_info.max, "a whole number of at least 0"),
    ("lr min_lr weight_decay", 0.0, sys.float_info.max, "a finite number of at least 0"),
    ("gate_speed", 0.0, sys.float_info.max, "a finite number of at least 0, or None"),
    ("label_smoothing", 0.0, 1.0, "a number from 0 to 1"),
)


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Defaults suit small models on small images.

    Attributes:
        steps, batch_size: optimiser steps and images in each.
        lr, min_lr, warmup_steps: AdamW's learning rate rises linearly to `lr`, then falls along a cosine to `min_lr`.
            A run no longer than its warm-up ends on the way up.
        gate_speed: how many times the learning rate of the rest the gates have; None is 1.
        weight_decay: on matrices only, never on biases, norms, gates, tokens or position embeddings.
        label_smoothing: probability spread over all classes, by the loss that `train` uses unless it is given another.
        flip, crop_padding: random horizontal flip; random crop after padding by so many pixels.
        evaluations: how often, at equal distances, the test accuracy is measured; the last is at the end.
        precision: "float32", or "bfloat16" for autocast.
        seed: of data order, augmentation and stochastic depth.

    Raises ValueError for a value that no run can have.
    """

    steps: int = 300
    batch_size: int = 64
    lr: float = 1e-3
    min_lr: float = 1e-5
    warmup_steps: int = 30
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    flip: bool = True
    crop_padding: int = 2
    evaluations: int = 8
    precision: str = "float32"
    seed: int = 0
    gate_speed: float | None = None

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"Unknown precision {self.precision!r}; known: float32, bfloat16.")
        if not isinstance(self.flip, bool):
            raise ValueError(f"flip must be True or False, not {self.flip!r}.")
        for names, least, largest, words in RANGES:
            for name in names.split():
                value, kind = getattr(self, name), type(least)
                if name == "gate_speed" and value is None:
                    continue
                right = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
                if not (right and least <= kind(value) <= largest):
                    raise ValueError(f"{name} must be {words}, not {value!r}.")
                if type(value) not in (int, float):  # numpy's, which a checkpoint would not read back
                    object.__setattr__(self, name, kind(value))
        if self.min_lr > self.lr:
            raise ValueError(f"The learning rate falls from lr, {self.lr}, to min_lr, which {self.min_lr} is above.")

    def learning_rate(self, step: int) -> float:
        """The learning rate of `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * progress)) / 2

    def loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy with smoothed labels: the loss of `train` where it is given no other."""
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def evaluated_after(self) -> set[int]:
        """The numbers of steps done after which the test accuracy is measured."""
        return {round(self.steps * k / self.evaluations) for k in range(1, self.evaluations + 1)} - {0}


@dataclass
class History:
    """What happened in a run.

    Attributes:
        loss: training loss of every step.
        accuracy: test accuracy in per cent, by number of steps done.
        seconds: time spent training and testing, over all parts of an interrupted run.
        measured: what `measure` of `train` has found, by name and number of steps done; numbers, lists
            of them and tensors, so that it can be saved with a checkpoint.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    measured: dict[str, dict[int, object]] = field(default_factory=dict)

    @property
    def final_accuracy(self) -> float:
        """Test accuracy after the last step, in per cent."""
        return self.accuracy[max(self.accuracy)]


def progress(*args: Any, **options: Any) -> tqdm:
    """A progress bar; the environment variable CONVIT_EDU_PROGRESS=0 turns all of them off."""
    return tqdm(*args, disable=not progress_shown(), **options)


def progress_shown() -> bool:
    """Whether somebody watches: False where CONVIT_EDU_PROGRESS=0, as in tests and while notebooks are stored."""
    return os.environ.get("CONVIT_EDU_PROGRESS") != "0"


def parameter_groups(model: nn.Module, weight_decay: float, gate_speed: float | None = None) -> list[dict]:
    """AdamW's groups: matrices decay; biases, norms, gates, tokens and position embeddings do not.

    With a `gate_speed` the gates are a third group, of so many times the learning rate; ValueError if there are none.
    """
    decayed, spared, gates = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if gate_speed is not None and name.endswith("gating_param"):
            gates.append(parameter)
        elif parameter.ndim > 1 and name not in ("pos_embed", "cls_token"):
            decayed.append(parameter)
        else:
            spared.append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    if gate_speed is None:
        return groups
    if not gates:
        raise ValueError("gate_speed is for a model with gates that are trained, and this one has none.")
    return [*groups, {"params": gates, "weight_decay": 0.0, "speed": gate_speed}]


def training_step(
    model: Callable[[Tensor], Tensor], optimizer: Optimizer, data: Dataset, recipe: Recipe, loss: Loss, step: int,
    indices: Tensor,
) -> Tensor:  # fmt: skip
    """Step number `step`, counted from 0, on the training images of `indices` (B,); returns the loss, on the device."""
    # Seeded by the step, so that a resumed run draws what an uninterrupted one would have drawn.
    generator = seeded(recipe.seed, "augment", step)
    torch.manual_seed(seeded(recipe.seed, "dropout", step).initial_seed())  # stochastic depth, dropout
    indices = indices.to(data.train_images.device)
    images = augment(data.train_images[indices], generator, flip=recipe.flip, padding=recipe.crop_padding)
    images, targets = data.normalize(images), data.train_labels[indices]  # (B, C, h, w), (B,)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        logits = model(images)  # (B, num_classes)
    value = loss(images, logits.float(), targets)
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate(step) * group.get("speed", 1.0)
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    return value.detach()


def train(
    model: nn.Module, data: Dataset, recipe: Recipe, device: str | torch.device = "auto",
    checkpoint: str | Path | None = None, label: str = "training", loss: Loss | None = None,
    measure: Measure | None = None, compile: bool = False,
) -> History:  # fmt: skip
    """Train `model` in place, and return its history. It stays on `device`, in training mode.

    Args:
        model, data, recipe: what, on what, and how. The seed of the recipe does not cover the model's own
            initial weights: see `create_model(name, seed=...)`.
        device: "auto" takes a GPU where there is one; see `pick_device`.
        checkpoint: a file written at every evaluation and at least once a minute. If it exists, the run goes on
            from it and ends as if it had never stopped, given the model as it was at the start.
        label: what the progress bar says.
        loss: `loss(images, logits, targets)` in place of `Recipe.loss`. It sees the normalised images (B, C, h, w)
            that the model has seen, logits (B, num_classes) in float32, and labels (B,). A checkpoint knows it by
            its attribute `identity`, or else by its name.
        measure: `measure(model, step)`, called with the model in evaluation mode at the start and at every
            evaluation; returns what `History.measured` is to keep. A checkpoint knows it as it does the loss.
        compile: train through torch.compile, which needs a C++ compiler on a CPU and Triton on CUDA. The first
            step takes long, the others less time; results differ by rounding and by what stochastic depth and
            dropout draw.

    Raises, before the first step:
        ValueError: model and data do not fit, or the checkpoint is of another run or damaged.
        OSError: the checkpoint cannot be read or written, or another run writes it.
    Later:
        FloatingPointError: loss or logits are not finite; says at which step. The last good checkpoint stays.
    """
    device, inner = pick_device(device), unwrapped(model)
    checkpoint = None if checkpoint is None else Path(checkpoint).expanduser()
    with ExitStack() as held:  # what is let go of at the end, however it comes
        if checkpoint:
            held.enter_context(one_writer(checkpoint))
            identity = identity_of(model, data, recipe, loss, measure)
        model.to(device).train()
        forward = torch.compile(model) if compile else model
        data, loss = data.to(device), loss or recipe.loss
        few = replace(data, test_images=data.test_images[:100], test_labels=data.test_labels[:100])
        optimizer = AdamW(parameter_groups(inner, recipe.weight_decay, recipe.gate_speed), lr=recipe.lr)
        history, step = History(), 0
        if checkpoint and checkpoint.exists():
            state = load_checkpoint(checkpoint, identity, recipe)
            set_weights(model, state["model"])
            optimizer.load_state_dict(state["optimizer"])
            history, step = History(**state["history"]), state["step"]
        evaluate(model, few, device)  # before any work: do model and data fit?
        bar = held.enter_context(progress(total=recipe.steps, initial=step, desc=label, unit="step"))
        held.enter_context(torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type))
        pending: list[Tensor] = []  # losses still on the device: reading each at once would stall a GPU
        before, start = history.seconds, time.perf_counter()
        saved = start

        def settle() -> None:
            losses = torch.stack(pending).tolist() if pending else []
            for number, value in enumerate(losses, start=len(history.loss) + 1):
                if not math.isfinite(value):
                    raise diverged(f"The loss became {value} at step {number}")
            history.loss += losses
            bar.update(len(losses))
            pending.clear()
            history.seconds = before + time.perf_counter() - start

        def diverged(what: str) -> FloatingPointError:
            there = checkpoint and checkpoint.exists()
            kept = f"the last good checkpoint is kept in {checkpoint}" if there else "no checkpoint was kept"
            return FloatingPointError(f"{what} of {recipe.steps}; {kept}. Try a smaller learning rate.")

        def take_measure() -> None:
            with evaluating(model):
                for name, value in (measure(model, step) if measure else {}).items():
                    history.measured.setdefault(name, {})[step] = storable(value, name)

        if step == 0:
            take_measure()
        evaluated_after = recipe.evaluated_after()
        order = batches(len(data.train_labels), recipe.batch_size, recipe.seed, start_step=step)
        for indices in islice(order, recipe.steps - step):
            pending.append(training_step(forward, optimizer, data, recipe, loss, step, indices))
            step += 1
            tested = step in evaluated_after
            if not tested and step % 10:
                continue
            settle()
            if not tested and not (checkpoint and time.perf_counter() - saved > 60):
                continue
            try:
                accuracy = evaluate(model, data if tested else few, device)
            except FloatingPointError:  # the last step's doing, of which no loss has told yet
                raise diverged(f"The logits are no longer finite after step {step}") from None
            if tested:
                history.accuracy[step] = accuracy
                take_measure()
                bar.set_postfix_str(f"test {accuracy:.1f} %")
            settle()  # the time of the test counts too
            if checkpoint:
                save_checkpoint(checkpoint, identity, step, model, optimizer, history)
                saved = time.perf_counter()
    return history
