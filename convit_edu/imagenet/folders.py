"""Images in folders that do not fit into memory: read by many processes, the same whatever their number.

A root holds train/<class>/* and val/<class>/*. The global batch of a step is dealt out to *groups* of fixed size.
A group is what one GPU of the paper's runs held at once; here any number of processes share the groups. What an
image looks like after augmentation depends on (seed, epoch, place in the epoch) alone, never on who reads it.
"""

import hashlib
import math
import os
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..pictures import class_files, left_out_words, read_picture
from .ranks import Refusal

AUGMENT = 0  # the stream of random numbers of augmentation; 1 is that of mixing and stochastic depth


@dataclass(frozen=True, eq=False)
class ImageFolders:
    """The files of one split: `names` (M,) bytes below `root`, `labels` (M,) int64, the names of the K `classes`.

    Names are one array and no list: worker processes share an array, and would each copy a list. `left_out` is a
    line on what is no data, or empty.
    """

    root: Path
    names: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    left_out: str = ""

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.root / os.fsdecode(bytes(self.names[index]))

    def fingerprint(self) -> str:
        """sha256 (hex) of all names and labels, not of the pixels: which files a run was started with."""
        return hashlib.sha256(b"\0".join([*self.names.tolist(), self.labels.tobytes()])).hexdigest()

    def labelled_for(self, classes: tuple[str, ...], whose: str) -> "ImageFolders":
        """The same files with labels that count in `classes`, by name. ValueError for a class that is not in it."""
        if unknown := [name for name in self.classes if name not in classes]:
            more = f" and {len(unknown) - 3} more" * (len(unknown) > 3)
            raise ValueError(
                f"{whose} tells {len(classes)} classes apart ({', '.join(classes[:3])}, ...), {self.root} has others: "
                f"{', '.join(unknown[:3])}{more}; name its folders as in training."
            )
        places = np.array([classes.index(name) for name in self.classes])
        return replace(self, labels=places[self.labels], classes=tuple(classes))


def scan(root: Path, fraction: float = 1.0, splits: tuple[str, ...] = ("train", "val")) -> tuple[ImageFolders, ...]:
    """The training and the validation files below `root`, classes and files in alphabetical order.

    Of the training files each class keeps the first int(fraction * n), as in the released code; at least one.
    Raises ValueError for a fraction outside (0, 1], and what `pictures.class_files` raises.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"--fraction is a share of each class's images, above 0 and at most 1, not {fraction:g}.")
    found, left_out = class_files(root, splits)
    words, made = left_out_words(root, left_out) + "\n" if left_out else "", []
    for split, classes in found.items():
        share = fraction if split == "train" else 1
        kept = [files[: max(1, int(share * len(files)))] for files in classes.values()]
        names = np.array([os.fsencode(os.path.join(split, file)) for files in kept for file in files])
        labels = np.repeat(np.arange(len(kept)), [len(files) for files in kept])
        made.append(ImageFolders(root, names, labels, tuple(classes), words))
    return tuple(made)


def draw_seed(*key: int) -> int:
    """A 64-bit seed fixed by `key`, for instance (seed, epoch, place); neighbouring keys give unrelated seeds."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def seed_everything(number: int, device: torch.device | None = None) -> None:
    """Set the random states of Python, numpy, torch and its `device`: timm's augmentation draws from the first three.

    torch.manual_seed would do; but it takes milliseconds at each call where no GPU has been used yet.
    """
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002  timm's Mixup draws from numpy's global state
    torch.default_generator.manual_seed(number)
    if device is not None and device.type != "cpu":
        getattr(torch, device.type).manual_seed(number)


class Images(Dataset):
    """`images[index]` or `images[index, key]` -> image (3, h, w), label; `key` (seed, epoch, place) fixes augmentation.

    Refusal, in one sentence that names the file, for one that is no picture or cannot be opened.
    """

    def __init__(self, files: ImageFolders, transform: Callable):
        self.files, self.transform = files, transform

    def __getitem__(self, item: int | tuple[int, tuple[int, ...]]) -> tuple[Tensor, int]:
        index, key = item if isinstance(item, tuple) else (item, None)
        try:
            image = read_picture(self.files.path(index))
        except ValueError as error:
            raise Refusal(f"{error} Replace it, and the same command goes on.") from error
        except (OSError, MemoryError) as error:  # no fault of the picture's
            raise Refusal(f"{str(error).rstrip('.')}; mend that, and the same command goes on.") from error
        if key is not None:
            seed_everything(draw_seed(AUGMENT, *key))
        return self.transform(image), int(self.files.labels[index])


class GroupBatches:
    """What one process reads: for each step, one batch of (index, key) for each group that is its own.

    The order is that of timm's RepeatAugSampler with one replica a *group*, so that it is the same for any number
    of processes. Every image stands `repeats` times in a row and the copies go to different groups; an epoch ends
    after about as many images as there are, so that only one in `repeats` is seen. Incomplete batches at its end are
    left out.

    Args:
        images: number of training images M.
        groups, size: groups in a global batch, images in a group.
        own: the groups of this process.
        repeats, seed: copies of an image; seed of order and augmentation. Seed 0 gives the released code's order.
    """

    def __init__(self, images: int, groups: int, size: int, own: range, repeats: int, seed: int):
        self.images, self.groups, self.size, self.own = images, groups, size, own
        self.repeats, self.seed = repeats, seed
        # timm's rounding, which before its version 1.0.31 leaves nothing of fewer than 256 images
        self.steps = (images // 256 * 256 // groups if images >= 256 else math.ceil(images / groups)) // size
        self.enter(0)

    def enter(self, epoch: int, step: int = 0) -> None:
        """The next iteration is that of `epoch`, from `step` on."""
        self.epoch, self.start = epoch, step

    def __len__(self) -> int:
        return (self.steps - self.start) * len(self.own)

    def __iter__(self) -> Iterator[list]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_000 + self.epoch)
        shuffled = torch.randperm(self.images, generator=generator).tolist()
        for step in range(self.start, self.steps):
            for group in self.own:
                places = [place * self.groups + group for place in range(step * self.size, (step + 1) * self.size)]
                yield [(shuffled[q // self.repeats % self.images], (self.seed, self.epoch, q)) for q in places]


def start_worker(number: int) -> None:
    """In a process that reads images: Ctrl-C is the parent's business, and so is the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    warnings.filterwarnings("ignore", module="PIL")  # odd metadata, of which ImageNet has some
