"""Images in folders that do not fit into memory: read by many processes, the same whatever their number.

A root holds train/<class>/* and val/<class>/*. The global batch of a step is dealt out to *groups* of fixed size.
A group is what one GPU of the paper's runs held at once; here any number of processes share the groups. What an
image looks like after augmentation depends on (seed, epoch, place in the epoch) alone, never on the process or
the worker that reads it. `imagenet` uses this module.
"""

import hashlib
import importlib
import os
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..parity import timm
from ..pictures import class_files, read_picture

# `import timm` brings only some of its parts. Here a worker that is started afresh gets them too, and safely.
for part in ("data", "loss", "optim", "scheduler", "utils"):
    importlib.import_module(f"{timm.__name__}.{part}")

LOOK_AHEAD = 100  # files that may be unreadable in a row
AUGMENT = 0  # the stream of random numbers of augmentation; 1 is that of mixing and stochastic depth


@dataclass(frozen=True, eq=False)
class ImageFolders:
    """The files of one split: `names` (M,) bytes below `root`, `labels` (M,) int64, the names of the K `classes`.

    Names are one array and no list: worker processes share an array, and would each copy a list.
    """

    root: Path
    names: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.root / os.fsdecode(bytes(self.names[index]))

    def fingerprint(self) -> str:
        """sha256 (hex) of all names and labels, not of the pixels: which files a run was started with."""
        return hashlib.sha256(b"\0".join([*self.names.tolist(), self.labels.tobytes()])).hexdigest()


def scan(root: Path, fraction: float = 1.0, splits: tuple[str, ...] = ("train", "val")) -> tuple[ImageFolders, ...]:
    """The training and the validation files below `root`, classes and files in alphabetical order.

    Of the training files each class keeps the first int(fraction * n), as in the released code; at least one.
    Raises ValueError for a fraction outside (0, 1], and what `pictures.class_files` raises.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"--fraction is a share of each class's images, above 0 and at most 1, not {fraction:g}.")
    found, _ = class_files(root, splits)
    return tuple(_split(root, split, found[split], fraction if split == "train" else 1.0) for split in splits)


def _split(root: Path, split: str, classes: dict[str, list[str]], fraction: float) -> ImageFolders:
    kept = [files[: max(1, int(fraction * len(files)))] for files in classes.values()]
    names = np.array([os.fsencode(os.path.join(split, file)) for files in kept for file in files])
    return ImageFolders(root, names, np.repeat(np.arange(len(kept)), [len(files) for files in kept]), tuple(classes))


def draw_seed(*key: int) -> int:
    """A 64-bit seed fixed by `key`, for instance (seed, epoch, place); neighbouring keys give unrelated seeds."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def seed_everything(number: int, device: torch.device | None = None) -> None:
    """Set the random states of Python, numpy, torch and its `device`: timm's augmentation draws from the first three.

    torch.manual_seed would do; but it takes milliseconds and some memory at each call where no GPU has been used yet,
    as in the processes that read images.
    """
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002  timm's Mixup draws from numpy's global state
    torch.default_generator.manual_seed(number)
    if device is not None and device.type != "cpu":
        getattr(torch, device.type).manual_seed(number)


class TrainingImages(Dataset):
    """`images[index, key]` -> augmented image (3, h, w), label, index of an unreadable file or -1.

    `key` (seed, epoch, place) fixes the augmentation. In the place of a file that cannot be read stands the next
    one that can, the same one for every process.
    """

    def __init__(self, files: ImageFolders, transform: Callable):
        self.files, self.transform = files, transform

    def __getitem__(self, item: tuple[int, tuple[int, ...]]) -> tuple[Tensor, int, int]:
        index, key = item
        bad = -1
        for step in range(LOOK_AHEAD):
            at = (index + step) % len(self.files)
            image = read_image(self.files.path(at))
            if image is not None:
                seed_everything(draw_seed(AUGMENT, *key))
                return self.transform(image), int(self.files.labels[at]), bad
            bad = at if bad < 0 else bad
        raise ValueError(f"{LOOK_AHEAD} files in a row cannot be read, beginning with {self.files.path(bad)}.")


class ValidationImages(Dataset):
    """`images[index]` -> image (3, h, w), label, and -1; or zeros, -1 and the index, if the file cannot be read."""

    def __init__(self, files: ImageFolders, transform: Callable, shape: tuple[int, ...]):
        self.files, self.transform, self.shape = files, transform, shape

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        image = read_image(self.files.path(index))
        if image is None:
            return torch.zeros(self.shape), -1, index
        return self.transform(image), int(self.files.labels[index]), -1


def read_image(path: Path):
    """The image at `path` in RGB, or None where the file is at fault; what the machine is at fault for is raised."""
    try:
        return read_picture(path)
    except (ValueError, FileNotFoundError, PermissionError):
        return None


class GroupBatches:
    """What one process reads: for each step, one batch of (index, key) for each group that is its own.

    The order is that of timm's RepeatAugSampler with one replica a *group*, so that it is the same for any number
    of processes, and for as many processes as groups it is timm's. Every image stands `repeats` times in a row and
    the copies go to different groups; an epoch ends after about as many images as there are, so that only one in
    `repeats` is seen. Incomplete batches at the end of an epoch are left out.

    Args:
        images: number of training images M.
        groups, size: groups in a global batch, images in a group.
        own: the groups of this process.
        repeats, seed: copies of an image; seed of order and augmentation. Seed 0 gives the released code's order.
    """

    def __init__(self, images: int, groups: int, size: int, own: range, repeats: int, seed: int):
        self.groups, self.size, self.own, self.seed = groups, size, own, seed
        sampler = timm.data.distributed_sampler.RepeatAugSampler
        self.samplers = {group: sampler(range(images), groups, group, num_repeats=repeats) for group in own}
        self.steps = len(self.samplers[own[0]]) // size  # of an epoch
        self.enter(0)

    def enter(self, epoch: int, step: int = 0) -> None:
        """The next iteration is that of `epoch`, from `step` on."""
        self.epoch, self.start = epoch, step

    def __len__(self) -> int:
        return (self.steps - self.start) * len(self.own)

    def __iter__(self) -> Iterator[list]:
        orders = {}
        for group, sampler in self.samplers.items():
            sampler.set_epoch(self.seed * 1_000_000 + self.epoch)  # the sampler's only seed
            orders[group] = list(sampler)
        for step in range(self.start, self.steps):
            for group in self.own:
                places = range(step * self.size, (step + 1) * self.size)
                yield [
                    (orders[group][place], (self.seed, self.epoch, place * self.groups + group)) for place in places
                ]


def start_worker(number: int) -> None:
    """In a process that reads images: Ctrl-C is the parent's business, and so is the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    warnings.filterwarnings("ignore", module="PIL")  # odd metadata, of which ImageNet has some
