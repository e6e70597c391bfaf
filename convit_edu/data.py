"""Images and labels held in memory: loading, balanced subsets, batches.

Shapes: M images in a set, K classes, B images in a batch, C channels, h x w pixels.
"""

import hashlib
import math
import numbers
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from .pictures import class_files, left_out_words, read_picture

NAMES = ("fashion_mnist_5k", "cifar10", "cifar100", "folder")
CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
# `Dataset.checksum()` of the embedded set: of its arrays, so that packing the file anew does not change it.
EMBEDDED_SHA256 = "39336b5fd30685bd1ea9ab14094a791ac9b2573730f8343b2e819d1f06c42209"
BICUBIC = 3  # Pillow's number for it


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images of one set.

    `train_images` (M, C, h, w) uint8, `train_labels` (M,) int64 in 0..K-1, the same for test, K >= 2 different
    names in `classes`; `mean` and `std` (C,) float, of pixels in 0..1, over the *full* training set: subsets keep
    them, so that all runs are normalised alike. Raises ValueError, in one sentence, for anything else.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        def refuse(expected: str, found: object) -> NoReturn:
            raise ValueError(f"{self.name}: expected {expected}, not {found}.")

        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            refuse("two or more classes with different names", self.classes)
        for split in ("train", "test"):
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            if not (torch.is_tensor(images) and torch.is_tensor(labels)):
                refuse(f"{split} images and labels as tensors", f"{type(images).__name__} and {type(labels).__name__}")
            if images.is_floating_point():
                spread = f"{images.min():.3g} to {images.max():.3g}" if images.numel() else "nothing"
                refuse(f"{split} images as uint8 pixels, which `normalize` normalises", f"{images.dtype}, {spread}")
            types = (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
            if not types or images.dim() != 4 or labels.shape != images.shape[:1] or not images.numel():
                found = f"{images.dtype} {tuple(images.shape)} and {labels.dtype} {tuple(labels.shape)}"
                refuse(f"{split} images uint8 (M, C, h, w) and labels int64 (M,), M >= 1", found)
            if labels.min() < 0 or labels.max() >= self.num_classes:
                refuse(f"{split} labels in 0..{self.num_classes - 1}", f"{labels.min()} to {labels.max()}")
        if self.test_images.shape[1:] != self.train_images.shape[1:]:
            refuse(f"test images of the shape {self.image_shape} of training", tuple(self.test_images.shape[1:]))
        for name, value in (("mean", self.mean), ("std", self.std)):
            if not torch.is_tensor(value) or value.shape != self.image_shape[:1]:
                refuse(f"{name} as a tensor ({self.image_shape[0]},)", getattr(value, "shape", value))
            if not value.isfinite().all() or (name == "std" and value.min() <= 0):
                refuse(f"a finite {name}{', above 0' * (name == 'std')}", value.tolist())

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, h, w)."""
        return tuple(self.train_images.shape[1:])

    def to(self, device: str | torch.device) -> "Dataset":
        """The same set with every tensor on `device`."""
        moved = copy(self)  # not `replace`, which would check it again: on a GPU each check waits for the device
        vars(moved).update({key: value.to(device) for key, value in vars(self).items() if torch.is_tensor(value)})
        return moved

    def checksum(self) -> str:
        """sha256 (hex) of all images and labels: names the data a record was made on."""
        digest = hashlib.sha256()
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def normalize(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, C, h, w) uint8 -> (x/255 - mean)/std in `dtype`, on the device of `images`."""
        return normalize(images, self.mean, self.std, dtype)

    def subset(self, size: int | None = None, fraction: float | None = None, seed: int = 0) -> "Dataset":
        """Fewer training images, the same test images: class-balanced, chosen by `seed`, and nested.

        Nested: for one seed every smaller subset lies inside every larger one. `size` images are dealt out to
        the classes in turn: counts differ by at most one, unless a class has no image left. `fraction` takes
        that share of each class. Raises ValueError for both or neither, for a fraction outside (0, 1], for
        more images than there are, and for fewer than one image a class.
        """
        if (size is None) == (fraction is None):
            raise ValueError("subset needs either size (number of images) or fraction (share of each class).")
        labels = self.train_labels.cpu()
        order, rank = _deal(labels, self.num_classes, seed, "subset")
        if fraction is not None:
            if not (isinstance(fraction, numbers.Real) and 0 < fraction <= 1):
                raise ValueError(f"subset: fraction must lie in (0, 1], not {fraction}.")
            share = self._per_class(fraction)  # (K,)
            if share.min() < 1:
                raise ValueError(f"subset: {fraction} of {self.name} is below one image a class; take more.")
            return self._take(order[rank < share[labels[order]]])
        size = whole("subset: size", size)
        if not self.num_classes <= size <= len(order):
            wrong = "more than there are" if size > len(order) else "fewer than one a class"
            raise ValueError(f"subset: {size} images are {wrong}; "
                             f"{self.name} has {len(order)} for training, in {self.num_classes} classes.")
        return self._take(order[:size])

    def held_out(self, share: float = 0.1, seed: int = 0) -> "Dataset":
        """To choose settings on: `share` of each class's training images to test on, the rest to train on.

        The true test images are not in it. Raises ValueError where a class would have no image on one side.
        """
        if not isinstance(share, numbers.Real):
            raise ValueError(f"held_out: share is a number in (0, 1), not {share!r}.")
        labels = self.train_labels.cpu()
        out, counts = self._per_class(share), torch.bincount(labels, minlength=self.num_classes)  # (K,) both
        if not (1 <= out.min() and 1 <= (counts - out).min()):
            raise ValueError(f"held_out: {share} of each class must leave an image of it on both sides; "
                             f"the smallest class of {self.name} has {counts.min()}.")
        order, rank = _deal(labels, self.num_classes, seed, "held out")
        aside = rank < out[labels[order]]
        rest, aside = self._take(order[~aside]), self._take(order[aside])
        return replace(rest, test_images=aside.train_images, test_labels=aside.train_labels)

    def _per_class(self, fraction: float) -> Tensor:
        """(K,) that share of each class's training images, rounded half up."""
        counts = torch.bincount(self.train_labels.cpu(), minlength=self.num_classes)
        return torch.floor(fraction * counts.cpu().double() + 0.5)

    def _take(self, index: Tensor) -> "Dataset":
        index = index.to(self.train_labels.device)
        return replace(self, train_images=self.train_images[index], train_labels=self.train_labels[index])


def normalize(images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, C, h, w) uint8 -> (x/255 - mean)/std in `dtype`, with any mean and std (C,) of pixels in 0..1.

    ValueError for images that are not uint8, and so perhaps normalised already.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"normalize takes uint8 pixels, not {images.dtype}: these may be normalised already.")
    work = torch.promote_types(dtype, torch.float32)  # half precision only after the arithmetic
    mean, std = (value.to(images.device, work)[:, None, None] for value in (mean, std))
    return ((images.to(work) / 255 - mean) / std).to(dtype)  # mean and std (C, 1, 1)


def whole(what: str, value: object, least: float = -math.inf) -> int:
    """`value` as an int. ValueError, which names `what` it is, if it is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        floor = f" of at least {least}" if least > -math.inf else ""
        raise ValueError(f"{what} is a whole number{floor}, not {value!r}.")
    return int(value)


def seeded(seed: int, stream: str, index: int = 0) -> torch.Generator:
    """A CPU torch.Generator fixed by (seed, stream, index), for instance `seeded(0, "augment", step)`.

    Streams of one seed are unrelated, and any step's numbers can be drawn without those of the steps before.
    ValueError for a seed that is not a whole number of at least 0.
    """
    seed = whole("A seed", seed, 0)
    key = np.random.SeedSequence([seed, zlib.crc32(stream.encode()), index])
    return torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0] >> np.uint64(1)))


def _deal(labels: Tensor, num_classes: int, seed: int, stream: str) -> tuple[Tensor, Tensor]:
    """Shuffle within the classes, then take one image of each class in turn, as cards are dealt.

    Any beginning of this order is as balanced as the classes permit, and shorter ones lie inside longer ones.
    labels (M,) -> order (M,), indices of images; rank (M,), how many of its own class come before each.
    """
    generator = seeded(seed, stream)
    shuffled = torch.randperm(len(labels), generator=generator)
    turn = torch.randperm(num_classes, generator=generator)  # which classes receive a remainder first
    grouped = shuffled[torch.argsort(labels[shuffled], stable=True)]  # (M,) class after class
    counts = torch.bincount(labels, minlength=num_classes)
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[grouped]]
    dealt = torch.argsort(rank * num_classes + turn[labels[grouped]])
    return grouped[dealt], rank[dealt]


def batches(num_images: int, batch_size: int, seed: int, start_step: int = 0) -> Iterator[Tensor]:
    """Endless iterator over index tensors (batch_size,) int64 on the CPU; the first is that of `start_step`.

    The permutations of successive epochs, each fixed by (seed, epoch), are laid end to end and cut into
    batches: every epoch covers every image once, every batch is full even where the set is smaller than a
    batch, and any step is entered directly. Raises ValueError for a size below 1 or a negative start_step.
    """
    whole("batches: num_images", num_images, 1)
    whole("batches: batch_size", batch_size, 1)
    whole("batches: start_step", start_step, 0)

    def permutation(epoch: int) -> Tensor:
        return torch.randperm(num_images, generator=seeded(seed, "order", epoch))

    def stream() -> Iterator[Tensor]:
        epoch, used = divmod(start_step * batch_size, num_images)
        queue = permutation(epoch)[used:]
        while True:
            while len(queue) < batch_size:
                epoch += 1
                queue = torch.cat([queue, permutation(epoch)])
            yield queue[:batch_size]
            queue = queue[batch_size:]

    return stream()  # an inner generator, so that bad arguments are refused here and not at the first batch


def load(name: str, root: str | Path | None = None, size: int | None = None, download: bool = False) -> Dataset:
    """Load a data set into memory by its name, one of `NAMES`.

    `fashion_mnist_5k` comes with the package. `cifar10` and `cifar100` are torchvision's, in the folder `root`;
    `download=True` fetches them if they are not there. `folder` reads root/train/<class>/* and root/val/<class>/* in
    RGB, shorter side resized to `size` pixels, centre cropped to size x size: in memory 3*size*size bytes an image; a
    warning counts the files that are left out, see `pictures.class_files`. Every file is checked. Raises
    FileNotFoundError for missing data, ValueError for an unknown name, a wrong argument or a bad file, OSError for
    one that cannot be opened, ConnectionError for a failed download, MemoryError where memory is short.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}; the known ones are {', '.join(NAMES)}.")
    if size is not None and name != "folder":
        raise ValueError(f"size is for 'folder' only; images of {name} have their own, so leave it out.")
    if name == "fashion_mnist_5k":
        return _embedded()
    if root is None:
        raise ValueError(f"{name} needs root=..., the folder with its files ('folder': train/ and val/).")
    root = Path(os.path.expanduser(root))  # leaves alone what names nobody's home
    if name == "folder":
        return _folder(root, size)
    from ._torchvision import cifar

    return _dataset(name, *cifar(name, root, download))


def _dataset(name: str, tensors: Sequence[Tensor], classes: Iterable[str]) -> Dataset:
    train_images, train_labels, test_images, test_labels = tensors
    # Sums of whole numbers are exact, so that mean and std are the same to the bit on every machine.
    counts = torch.stack([torch.bincount(plane.flatten(), minlength=256) for plane in train_images.unbind(1)])
    value, total = torch.arange(256), counts.sum(1).cpu().double()  # counts (C, 256)
    mean = (counts * value).sum(1) / total  # (C,), of 0..255
    std = ((counts * value**2).sum(1) / total - mean**2).clamp(min=1).sqrt()  # never 0, even for plain images
    mean, std = (mean / 255).float(), (std / 255).float()
    return Dataset(name, train_images, train_labels, test_images, test_labels, tuple(classes), mean, std)


def _embedded_file() -> Any:
    return resources.files(__package__) / "datasets" / "fashion_mnist_5k.npz"


def _embedded() -> Dataset:
    path, remedy = _embedded_file(), "reinstall the package, or remake it with scripts/make_embedded.py."
    tensors = []
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            for split in ("train", "test"):
                tensors.append(torch.from_numpy(arrays[f"{split}_images"])[:, None])  # (M, 1, 28, 28)
                tensors.append(torch.from_numpy(arrays[f"{split}_labels"]).long())
        data = _dataset("fashion_mnist_5k", tensors, CLOTHES)
    except FileNotFoundError:
        raise FileNotFoundError(f"the embedded data file {path} is missing; {remedy}") from None
    except (MemoryError, PermissionError):  # the latter names the file
        raise
    except Exception as error:  # zipfile, zlib and numpy each have their own for a damaged archive
        raise ValueError(f"the embedded data file {path} cannot be read ({error}); {remedy}") from error
    if data.checksum() != EMBEDDED_SHA256:
        raise ValueError(f"the embedded data file {path} is altered (its images' sha256 differs); {remedy}")
    return data


def _folder(root: Path, size: int | None) -> Dataset:
    side = whole("folder: size, the side in pixels to bring every image to,", size, 1)
    files, left_out = class_files(root)
    if left_out:
        warnings.warn(left_out_words(root, left_out), stacklevel=3)
    tensors = []
    for split, by_class in files.items():
        paths = [root / split / name for found in by_class.values() for name in found]
        labels = [label for label, found in enumerate(by_class.values()) for _ in found]
        try:
            images = np.empty((len(paths), 3, side, side), np.uint8)
        except (MemoryError, ValueError):  # numpy has a largest size of its own
            raise MemoryError(f"folder: {len(paths)} images of {side} x {side} pixels need "
                              f"{len(paths) * 3 * side**2:,} bytes of memory; give a smaller size.") from None
        with ThreadPoolExecutor() as pool:  # decoding and resizing release Python's lock
            list(pool.map(_read_square, paths, images))
        tensors += [torch.from_numpy(images), torch.tensor(labels)]
    return _dataset(root.resolve().name, tensors, files["train"])


def _read_square(path: Path, out: np.ndarray) -> None:
    """Fill out (3, size, size) uint8 from the image file at `path`: shorter side resized, centre cropped."""
    image, size = read_picture(path), out.shape[-1]
    wide, high = (max(size, round(side * size / min(image.size))) for side in image.size)
    image = image.resize((wide, high), BICUBIC)  # Pillow's own is antialiased
    left, top = (wide - size) // 2, (high - size) // 2
    out[:] = np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)
