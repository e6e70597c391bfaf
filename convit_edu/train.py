"""Training and testing: one recipe for ConViT and DeiT alike (Section 4, at the size of one machine).

AdamW with decay on matrices only, linear warm-up and cosine decay, label smoothing, stochastic depth, flips
and padded crops; on demand random erasing, mixup and cutmix. A run is fixed by its recipe and seed, can be
interrupted, and resumes from its checkpoint exactly: every random number of a step depends on the seed and the
step alone. Chapter 07 uses this module.
"""

import io
import math
import os
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from .augment import augment, mix, random_erasing
from .data import Dataset, batches, seeded
from .files import write_in_one_move


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Defaults suit small models on small images.

    Attributes:
        steps, batch_size: optimiser steps and images in each.
        lr, min_lr, warmup_steps: AdamW's learning rate rises linearly to `lr`, then falls along a cosine to `min_lr`.
        weight_decay: on matrices only, never on biases, norms, gates, tokens or position embeddings.
        label_smoothing: probability spread over all classes.
        drop_path: stochastic depth of the last block; None leaves the model's own.
        flip, crop_padding: random horizontal flip; random crop after padding by so many pixels.
        erasing: probability that an image has a rectangle of noise put into it; see `augment.random_erasing`.
        mixup, cutmix: alpha of the Beta distribution that says how two images are mixed, 0 being off; see
            `augment.mix`. With both on, each batch takes one of them, with probability 1/2.
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
    drop_path: float | None = None
    flip: bool = True
    crop_padding: int = 2
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    evaluations: int = 8
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self):
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"Unknown precision {self.precision!r}; known: float32, bfloat16.")
        if min(self.steps, self.batch_size, self.evaluations) < 1:
            raise ValueError("A recipe needs at least one step, one image a batch and one evaluation.")
        if not (0 <= self.mixup < math.inf and 0 <= self.cutmix < math.inf and 0 <= self.erasing <= 1):
            raise ValueError(
                "mixup and cutmix must be finite and not negative, and erasing is a probability in [0, 1], "
                f"not {self.mixup}, {self.cutmix} and {self.erasing}."
            )

    def learning_rate(self, step: int) -> float:
        """The learning rate of `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * progress)) / 2

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
        measured: what a subclass of `Run` measures besides, by name and number of steps done; numbers and lists
            of them, so that it can be saved with a checkpoint and written as JSON.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    measured: dict[str, dict[int, object]] = field(default_factory=dict)

    @property
    def final_accuracy(self) -> float:
        """Test accuracy after the last step, in per cent."""
        return self.accuracy[max(self.accuracy)]


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """`device`, where "auto" is the first there is of CUDA, Apple's GPU (MPS) and the CPU."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def progress(*args, **options) -> tqdm:
    """A progress bar; the environment variable CONVIT_EDU_PROGRESS=0 turns all of them off."""
    return tqdm(*args, disable=not progress_shown(), **options)


def progress_shown() -> bool:
    """Whether somebody watches: False where CONVIT_EDU_PROGRESS=0, as in tests and while notebooks are stored."""
    return os.environ.get("CONVIT_EDU_PROGRESS") != "0"


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """AdamW's two groups: matrices decay; biases, norms, gates, tokens and position embeddings do not."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[parameter.ndim > 1 and name not in ("pos_embed", "cls_token")].append(parameter)
    return [
        {"params": groups[True], "weight_decay": weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]


@torch.no_grad()
def evaluate(model: nn.Module, data: Dataset, device: str | torch.device = "auto", batch_size: int = 500) -> float:
    """Test accuracy in per cent. The model is moved to `device` and left in the mode it was in."""
    device = pick_device(device)
    training = model.training
    model.to(device).eval()
    correct = 0
    for images, labels in zip(
        data.test_images.split(batch_size), data.test_labels.split(batch_size), strict=True
    ):
        logits = model(data.normalize(images.to(device)))  # (B, num_classes)
        correct += (logits.argmax(1) == labels.to(device)).sum().item()
    model.train(training)
    return 100 * correct / len(data.test_labels)


class Run:
    """A training run between two steps: model, optimiser, history and the number of steps done."""

    def __init__(self, model: nn.Module, data: Dataset, recipe: Recipe, device: torch.device):
        self.model, self.data, self.recipe, self.device = model.to(device).train(), data.to(device), recipe, device
        self.optimizer = torch.optim.AdamW(parameter_groups(model, recipe.weight_decay), lr=recipe.lr)
        self.forward = self.model  # what a training step calls; `train` puts the compiled model here
        self.history, self.step = History(), 0
        self.identity = (
            {f"model.{name}": value for name, value in getattr(model, "config", {}).items()}
            | {f"recipe.{name}": value for name, value in asdict(recipe).items()}
            | {"data.name": data.name, "data.checksum": data.checksum()}
        )
        if recipe.drop_path is not None:
            model.set_drop_path(recipe.drop_path)

    def train_step(self, indices: Tensor) -> Tensor:
        """One optimiser step on the images of `indices` (B,); returns the loss, still on the device."""
        recipe = self.recipe
        # Seeded by the step, so that a resumed run draws what an uninterrupted one would have drawn.
        generator = seeded(recipe.seed, "augment", self.step)
        torch.manual_seed(seeded(recipe.seed, "dropout", self.step).initial_seed())  # stochastic depth, dropout
        indices = indices.to(self.device)
        images = augment(self.data.train_images[indices], generator, flip=recipe.flip, padding=recipe.crop_padding)
        images, targets = self.data.normalize(images), self.data.train_labels[indices]
        if recipe.erasing:
            images = random_erasing(images, seeded(recipe.seed, "erasing", self.step), recipe.erasing)
        if recipe.mixup or recipe.cutmix:  # targets (B,) become (B, num_classes)
            generator = seeded(recipe.seed, "mix", self.step)
            images, targets = mix(images, targets, self.data.num_classes, generator, recipe.mixup, recipe.cutmix)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            logits = self.forward(images)  # (B, num_classes)
        loss = self.loss(images, logits.float(), targets)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate(self.step)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return loss.detach()

    def loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of logits (B, num_classes); `images` are the normalised ones that the model has seen."""
        return F.cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)

    def evaluate(self) -> None:
        """Measure the test accuracy now. A subclass measures more by extending this, into `history.measured`."""
        self.history.accuracy[self.step] = evaluate(self.model, self.data, self.device)

    def save(self, path: Path) -> None:
        """Write the run to `path` in one move: a killed process leaves the old file or the new, never a half."""
        state = {
            "identity": self.identity,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": asdict(self.history),
        }
        content = io.BytesIO()
        torch.save(state, content)
        write_in_one_move(path, content.getvalue())

    def load(self, path: Path) -> None:
        """Go back to where `path` was saved. ValueError if it is no checkpoint or of another configuration."""
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            # A setting that a checkpoint does not know is younger than it: the run had what is now the default.
            identity = {f"recipe.{setting.name}": setting.default for setting in fields(Recipe)} | state["identity"]
        except Exception as error:
            raise ValueError(f"{path} is not a readable checkpoint; delete it to train from the start.") from error
        differing = [name for name in self.identity | identity if self.identity.get(name) != identity.get(name)]
        if differing:
            raise ValueError(
                f"{path} is the checkpoint of another configuration (it differs in {', '.join(differing)}); "
                "give another path, or delete it to train from the start."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history, self.step = History(**state["history"]), state["step"]


def train(
    model: nn.Module,
    data: Dataset,
    recipe: Recipe,
    device: str | torch.device = "auto",
    checkpoint: str | Path | None = None,
    label: str = "training",
    run_type: type[Run] = Run,
    compile: bool = False,
) -> History:
    """Train `model` in place and return its history.

    Args:
        model, data, recipe: what, on what, and how. The seed of the recipe does not cover the model's own
            initial weights: see `create_model(name, seed=...)`.
        device: "auto" takes a GPU where there is one; see `pick_device`.
        checkpoint: a file written at every evaluation and at least once a minute. If it exists, the run goes on
            from it and ends as if it had never stopped; ValueError if it belongs to another configuration.
        label: what the progress bar says.
        run_type: a subclass of `Run`, for another training step or further measurements.
        compile: train through torch.compile, which needs a C++ compiler on a CPU and Triton on CUDA. The first
            step takes long, the others less time; results differ by rounding and by what stochastic depth and
            dropout draw.

    Raises:
        FloatingPointError: the loss is no longer finite; says at which step. The last good checkpoint stays.
    """
    device = pick_device(device)
    checkpoint = None if checkpoint is None else Path(checkpoint)
    run = run_type(model, data, recipe, device)
    if compile:
        run.forward = torch.compile(run.model)  # beside the model, whose state dict would change its names
    if checkpoint is not None and checkpoint.exists():
        run.load(checkpoint)
    evaluated_after = recipe.evaluated_after()
    pending: list[Tensor] = []  # losses still on the device: reading each at once would stall a GPU
    bar = progress(total=recipe.steps, initial=run.step, desc=label, unit="step")
    before, start = run.history.seconds, time.perf_counter()
    saved = start

    def settle() -> None:
        losses = torch.stack(pending).tolist() if pending else []
        for number, loss in enumerate(losses, start=len(run.history.loss) + 1):
            if not math.isfinite(loss):
                kept = f"the last good checkpoint is kept in {checkpoint}" if checkpoint else "no checkpoint was kept"
                raise FloatingPointError(
                    f"The loss became {loss} at step {number} of {recipe.steps}; {kept}. Try a smaller learning rate."
                )
        run.history.loss += losses
        bar.update(len(losses))
        pending.clear()
        run.history.seconds = before + time.perf_counter() - start

    try:
        order = batches(len(data.train_labels), recipe.batch_size, recipe.seed, start_step=run.step)
        with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
            while run.step < recipe.steps:
                pending.append(run.train_step(next(order)))
                if run.step not in evaluated_after and run.step % 10:
                    continue
                settle()
                if run.step in evaluated_after:
                    run.evaluate()
                    bar.set_postfix_str(f"test {run.history.accuracy[run.step]:.1f} %")
                    settle()  # the time of the test counts too
                if checkpoint is not None and (run.step in evaluated_after or time.perf_counter() - saved > 60):
                    run.save(checkpoint)
                    saved = time.perf_counter()
    finally:
        bar.close()
    return run.history
