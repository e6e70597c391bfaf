"""The recipe of Section 4 as numbers, and what timm makes of them."""

import importlib
import math
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import nn

from ..data import whole
from ..parity import timm
from .folders import GroupBatches

# `import timm` brings only some of its parts. A worker that is started afresh gets them here too, and safely.
for part in ("data", "loss", "optim", "scheduler"):
    importlib.import_module(f"{timm.__name__}.{part}")


def option(default, words: str):
    return field(default=default, metadata={"help": words})


@dataclass(frozen=True)
class PaperRecipe:
    """The recipe of Section 4. None stands for the paper's value for the model: see `for_model`.

    Raises ValueError for a value that no run can have.
    """

    epochs: int = option(300, "epochs at --fraction 1")
    warmup_epochs: int = option(5, "epochs of linear warm-up at --fraction 1")
    global_batch: int | None = option(None, 'images of a step, over all processes (1024; "+" sizes 512)')
    group: int | None = option(None, 'images held at once and mixed with each other (128; "+" sizes 64)')
    lr: float | None = option(None, 'learning rate for 512 images (5e-4; "+" sizes 4e-4)')
    warmup_lr: float = option(1e-6, "rate of the first epoch")
    min_lr: float = option(1e-5, "rate at the end")
    weight_decay: float = option(0.05, "AdamW's decay")
    decay_tokens: bool = option(False, "decay class token and absolute positions, as the released code on many GPUs")
    drop_path: float = option(0.1, "stochastic depth of the last block")
    smoothing: float = option(0.1, "label smoothing")
    mixup: float = option(0.8, "alpha of mixup, 0 is off")
    cutmix: float = option(1.0, "alpha of cutmix, 0 is off")
    erasing: float = option(0.25, "probability of random erasing")
    repeats: int = option(3, "augmented copies of an image, 1 is off")
    seed: int = option(0, "of initial weights, order, augmentation, mixing, stochastic depth")

    def __post_init__(self):
        least = dict.fromkeys(("epochs", "global_batch", "group", "repeats"), 1) | {"warmup_epochs": 0, "seed": 0}
        below = {"drop_path": 1, "smoothing": 1, "erasing": 1.000001}  # every image may be erased
        below |= dict.fromkeys(("weight_decay", "mixup", "cutmix", "lr", "warmup_lr", "min_lr"), math.inf)
        for name, value in asdict(self).items():
            words = f"--{name.replace('_', '-')}"
            if name in least and value is not None:
                whole(words, value, least[name])
            if name in below and value is not None and not 0 <= value < below[name]:
                end = f"below {below[name]:g}" if below[name] < math.inf else "finite"
                raise ValueError(f"{words} is at least 0 and {end}, not {value}.")

    def for_model(self, name: str, fraction: float = 1.0) -> "PaperRecipe":
        """The recipe with the paper's batch, group and rate for `name`, and with its epochs divided by `fraction`."""
        batch, group, lr = (512, 64, 4e-4) if name.endswith("_plus") else (1024, 128, 5e-4)
        return replace(
            self, epochs=int(self.epochs / fraction), warmup_epochs=int(self.warmup_epochs / fraction),
            global_batch=self.global_batch or batch, group=self.group or group, lr=lr if self.lr is None else self.lr,
        )  # fmt: skip

    @property
    def peak_lr(self) -> float:
        return self.lr * self.global_batch / 512

    @property
    def groups(self) -> int:
        return self.global_batch // self.group

    def check(self, images: int, world: int) -> None:
        """ValueError if a global batch does not fall into groups, the groups into processes, or an epoch is empty."""
        if self.global_batch % self.group or (self.group % 2 and (self.mixup or self.cutmix)):
            raise ValueError(
                f"--global-batch {self.global_batch} must be a multiple of --group {self.group}, and a group an even "
                "number of images, which are mixed in pairs."
            )
        if self.groups % world:
            possible = ", ".join(str(n) for n in range(1, self.groups + 1) if self.groups % n == 0)
            raise ValueError(
                f"{self.global_batch} images in groups of {self.group} are {self.groups} group(s), which {world} "
                f"processes cannot share evenly; start {possible} process(es), or choose another --group."
            )
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"--warmup-epochs {self.warmup_epochs} leave nothing of --epochs {self.epochs}.")
        if GroupBatches(images, self.groups, self.group, range(1), self.repeats, self.seed).steps < 1:
            raise ValueError(
                f"{images} training images do not fill one global batch of {self.global_batch}; give more images, "
                "or a smaller --global-batch."
            )

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """timm's AdamW: the decay on all but biases, norms and gates, and tokens unless `decay_tokens`."""
        spared = () if self.decay_tokens else ("pos_embed", "cls_token")
        groups = timm.optim.param_groups_weight_decay(model, self.weight_decay, no_weight_decay_list=spared)
        return timm.optim.create_optimizer_v2(groups, "adamw", self.peak_lr, self.weight_decay, eps=1e-8)

    def scheduler(self, optimizer: torch.optim.Optimizer):
        """timm's cosine schedule: `step(epoch)` sets the rate of that epoch."""
        return timm.scheduler.CosineLRScheduler(
            optimizer, self.epochs, self.min_lr, warmup_t=self.warmup_epochs, warmup_lr_init=self.warmup_lr
        )

    def transform(self, shape: tuple[int, ...]):
        """PIL image -> augmented, normalised (3, h, w)."""
        made = timm.data.create_transform(
            shape, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic",
            re_prob=self.erasing, re_mode="pixel", re_count=1,
        )  # fmt: skip
        for operation in [operation for step in made.transforms for operation in getattr(step, "ops", ())]:
            if operation.name.startswith("Posterize"):
                operation.aug_fn = posterize
        return made

    def mixer(self, classes: int):
        """timm's Mixup, (images, labels) -> (images, targets (B, K)), or None; and the loss that goes with it."""
        if not (self.mixup or self.cutmix):
            return None, timm.loss.LabelSmoothingCrossEntropy(self.smoothing)
        mixup = timm.data.Mixup(self.mixup, self.cutmix, label_smoothing=self.smoothing, num_classes=classes)
        return mixup, timm.loss.SoftTargetCrossEntropy()


def posterize(image, bits: int, **_):
    """The `bits` highest bits of each colour. With 0, which full strength asks for, black: so in all Pillow up to 12.

    Pillow 13 refuses 0 bits, so that timm's own ends the training at the first image that draws it.
    """
    kept = 256 - 2 ** (8 - min(bits, 8))
    return image.point([value & kept for value in range(256)] * len(image.getbands()))
