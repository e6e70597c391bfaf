"""Images and labels held in memory: loading, balanced subsets, batches, augmentation.

Shapes: M images in a set, K classes, B images in a batch, C channels, h x w pixels.
"""

import hashlib
import math
import operator
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

NAMES = ("fashion_mnist_5k", "fashion_mnist", "cifar10", "cifar100", "folder")
CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
# `Dataset.checksum()` of the embedded set: of its arrays, so that packing the file anew does not change it.
EMBEDDED_SHA256 = "39336b5fd30685bd1ea9ab14094a791ac9b2573730f8343b2e819d1f06c42209"
IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images of one set.

    `train_images` (M, C, h, w) uint8, `train_labels` (M,) int64 in 0..K-1, the same for test, K names in
    `classes`; `mean` and `std` (C,) float32, of pixels in 0..1, over the *full* training set: subsets keep
    them, so that all runs are normalised alike. Raises ValueError for other types or shapes.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    classes: tuple
    mean: torch.Tensor
    std: torch.Tensor

    def __post_init__(self):
        for images, labels in ((self.train_images, self.train_labels), (self.test_images, self.test_labels)):
            types = (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
            if not types or images.dim() != 4 or labels.shape != images.shape[:1]:
                found = f"{images.dtype} {tuple(images.shape)} and {labels.dtype} {tuple(labels.shape)}"
                raise ValueError(f"{self.name}: expected uint8 (M, C, h, w) and int64 (M,), not {found}.")

    @property
    def num_classes(self):
        return len(self.classes)

    @property
    def image_shape(self):
        """(C, h, w)."""
        return tuple(self.train_images.shape[1:])

    def to(self, device):
        """The same set with every tensor on `device`."""
        moved = {key: value.to(device) for key, value in vars(self).items() if torch.is_tensor(value)}
        return replace(self, **moved)

    def checksum(self):
        """sha256 (hex) of all images and labels: names the data a record was made on."""
        digest = hashlib.sha256()
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(tensor.cpu().contiguous().numpy())
        return digest.hexdigest()

    def normalize(self, images, dtype=torch.float32):
        """(B, C, h, w) uint8 -> (x/255 - mean)/std in `dtype`, on the device of `images`."""
        return normalize(images, self.mean, self.std, dtype)

    def subset(self, size=None, fraction=None, seed=0):
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
            if not 0 < fraction <= 1:
                raise ValueError(f"subset: fraction must lie in (0, 1], not {fraction}.")
            share = self._per_class(fraction)  # (K,)
            if share.min() < 1:
                raise ValueError(f"subset: {fraction} of {self.name} is below one image a class; take more.")
            return self._take(order[rank < share[labels[order]]])
        size = operator.index(size)
        if not self.num_classes <= size <= len(order):
            wrong = "more than there are" if size > len(order) else "fewer than one a class"
            raise ValueError(f"subset: {size} images are {wrong}; "
                             f"{self.name} has {len(order)} for training, in {self.num_classes} classes.")
        return self._take(order[:size])

    def held_out(self, share=0.1, seed=0):
        """To choose settings on: `share` of each class's training images to test on, the rest to train on.

        The true test images are not in it. Raises ValueError where a class would have no image on one side.
        """
        labels = self.train_labels.cpu()
        out, counts = self._per_class(share), torch.bincount(labels, minlength=self.num_classes)  # (K,) both
        if not (1 <= out.min() and 1 <= (counts - out).min()):
            raise ValueError(f"held_out: {share} of each class must leave an image of it on both sides; "
                             f"the smallest class of {self.name} has {counts.min()}.")
        order, rank = _deal(labels, self.num_classes, seed, "held out")
        aside = rank < out[labels[order]]
        rest, aside = self._take(order[~aside]), self._take(order[aside])
        return replace(rest, test_images=aside.train_images, test_labels=aside.train_labels)

    def _per_class(self, fraction):
        """(K,) that share of each class's training images, rounded half up."""
        counts = torch.bincount(self.train_labels.cpu(), minlength=self.num_classes)
        return torch.floor(fraction * counts.cpu().double() + 0.5)

    def _take(self, index):
        index = index.to(self.train_labels.device)
        return replace(self, train_images=self.train_images[index], train_labels=self.train_labels[index])


def normalize(images, mean, std, dtype=torch.float32):
    """(B, C, h, w) uint8 -> (x/255 - mean)/std in `dtype`, with any mean and std (C,) of pixels in 0..1."""
    work = torch.promote_types(dtype, torch.float32)  # half precision only after the arithmetic
    mean, std = (value.to(images.device, work)[:, None, None] for value in (mean, std))
    return ((images.to(work) / 255 - mean) / std).to(dtype)  # mean and std (C, 1, 1)


def seeded(seed, stream, index=0):
    """A CPU torch.Generator fixed by (seed, stream, index), for instance `seeded(0, "augment", step)`.

    Streams of one seed are unrelated, and any step's numbers can be drawn without those of the steps before.
    """
    key = np.random.SeedSequence([seed, zlib.crc32(stream.encode()), index])
    return torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0] >> np.uint64(1)))


def _deal(labels, num_classes, seed, stream):
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


def batches(num_images, batch_size, seed, start_step=0):
    """Endless iterator over index tensors (batch_size,) int64 on the CPU; the first is that of `start_step`.

    The permutations of successive epochs, each fixed by (seed, epoch), are laid end to end and cut into
    batches: every epoch covers every image once, every batch is full even where the set is smaller than a
    batch, and any step is entered directly. Raises ValueError for a size below 1 or a negative start_step.
    """
    if num_images < 1 or batch_size < 1 or start_step < 0:
        raise ValueError("batches needs num_images >= 1, batch_size >= 1 and start_step >= 0, "
                         f"not {num_images}, {batch_size} and {start_step}.")

    def permutation(epoch):
        return torch.randperm(num_images, generator=seeded(seed, "order", epoch))

    def stream():
        epoch, used = divmod(start_step * batch_size, num_images)
        queue = permutation(epoch)[used:]
        while True:
            while len(queue) < batch_size:
                epoch += 1
                queue = torch.cat([queue, permutation(epoch)])
            yield queue[:batch_size]
            queue = queue[batch_size:]

    return stream()  # an inner generator, so that bad arguments are refused here and not at the first batch


def augment(images, generator, flip=True, padding=2):
    """Mirror each image left to right with probability 1/2, pad its borders, crop it at a random place.

    images (B, C, h, w), uint8 or float -> the same shape, type and device. The `padding` pixels are zero, as
    in DeiT's and ConViT's code for small images: black, also the background of Fashion-MNIST; so augment
    first, then normalise. `generator` is a CPU one, so that every device draws the same. Both kinds of number
    are always drawn: switching one off leaves the other as it was. Raises ValueError for a wrong shape.
    """
    if images.dim() != 4 or padding < 0:
        raise ValueError("augment needs images (B, C, h, w) and padding >= 0, "
                         f"not {tuple(images.shape)} and {padding}.")
    B, C, h, w = images.shape
    mirrored = torch.randint(0, 2, (1, B), generator=generator) * int(flip)
    corner = torch.randint(0, 2 * padding + 1, (2, B), generator=generator)
    draws = torch.cat([mirrored, corner]).to(images.device)  # (3, B), in one transfer
    mirrored, top, left = draws[:, :, None, None]  # (B, 1, 1) each
    x = torch.arange(w, device=images.device)
    x = torch.where(mirrored == 1, w - 1 - x, x) + left  # (B, 1, w)
    y = torch.arange(h, device=images.device)[:, None] + top  # (B, h, 1)
    pixel = (y * (w + 2 * padding) + x).flatten(1)[:, None].expand(-1, C, -1)  # (B, C, h*w)
    return F.pad(images, (padding,) * 4).flatten(2).gather(2, pixel).view(B, C, h, w)


def random_erasing(images, generator, probability):
    """Put a rectangle of noise into each image with this probability (Zhong et al. 2020, as in DeiT's recipe).

    images (B, C, h, w), normalised -> the same shape, type and device. A rectangle covers 2 % to 1/3 of its image
    at any place that holds it whole; height over width is 0.3 to 3.3, uniform in its logarithm, and less extreme
    where the rectangle would not fit. Each of its values is drawn from a standard normal distribution.
    `generator` is a CPU one, so that every device draws the same. Raises ValueError for a wrong shape or
    probability.
    """
    if images.dim() != 4 or not 0 <= probability <= 1:
        raise ValueError("random_erasing needs images (B, C, h, w) and a probability in [0, 1], "
                         f"not {tuple(images.shape)} and {probability}.")
    B, C, h, w = images.shape
    chosen, area, aspect, top, left = torch.rand(5, B, generator=generator)  # each (B,), in 0..1
    noise = torch.randn(images.shape, generator=generator)
    area = h * w * (0.02 + (1 / 3 - 0.02) * area)  # pixels
    aspect = torch.exp(math.log(0.3) + math.log(3.3 / 0.3) * aspect).clamp(area / w**2, h**2 / area)
    height = (area * aspect).sqrt().round().clamp(1, h)
    width = (area / height).round().clamp(1, w)
    top, left = (top * (h + 1 - height)).floor(), (left * (w + 1 - width)).floor()
    height = height * (chosen < probability)  # no row of an image that is not chosen
    box = torch.stack([top, top + height, left, left + width]).to(images.device, torch.int64)  # in one transfer
    top, bottom, left, right = box[:, :, None, None, None]  # (B, 1, 1, 1) each
    y, x = torch.arange(h, device=images.device)[:, None], torch.arange(w, device=images.device)
    inside = (top <= y) & (y < bottom) & (left <= x) & (x < right)  # (B, 1, h, w)
    return torch.where(inside, noise.to(images.device, images.dtype), images)


def mix(images, labels, num_classes, generator, mixup=0.0, cutmix=0.0):
    """Mix images and labels in pairs: by mixup (Zhang et al. 2018) or by cutmix (Yun et al. 2019).

    images (B, C, h, w), normalised; labels (B,) -> images, and targets (B, K), probabilities. A share `lam` of
    each image is its own, lam ~ Beta(alpha, alpha) being one number for the batch. Mixup takes alpha = `mixup`
    and averages: lam * image + (1 - lam) * partner. Cutmix takes alpha = `cutmix` and puts the same rectangle,
    1 - lam of the image, in from the partner; as a border may cut it off, lam becomes the share that is left. An
    alpha of 0 is off; with both on, each is taken with probability 1/2. The partner is the image at the same
    place from the end: batches are in random order already. `generator` is a CPU one, so that every device draws
    the same. Raises ValueError for negative alphas, or if both are 0.
    """
    if not (min(mixup, cutmix) >= 0 and max(mixup, cutmix) > 0):
        raise ValueError(f"mix needs mixup and cutmix >= 0 and one of them above, not {mixup} and {cutmix}.")
    # torch draws no Beta numbers from a generator of one's own; numpy does.
    rng = np.random.default_rng(torch.randint(2**62, (1,), generator=generator).item())
    cut = rng.random() < (0.5 if mixup and cutmix else bool(cutmix))
    lam = rng.beta(cutmix, cutmix) if cut else rng.beta(mixup, mixup)
    partner = images.flip(0)
    if cut:
        h, w = images.shape[2:]
        height, width = (round(side * math.sqrt(1 - lam)) for side in (h, w))
        y, x = rng.integers((h, w)).tolist()  # the centre, in the image
        top, left = y - height // 2, x - width // 2
        rows, columns = slice(max(top, 0), min(top + height, h)), slice(max(left, 0), min(left + width, w))
        images = images.clone()
        images[:, :, rows, columns] = partner[:, :, rows, columns]
        lam = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (h * w)
    else:
        images = lam * images + (1 - lam) * partner
    own = F.one_hot(labels, num_classes).to(images.dtype)  # (B, K)
    return images, lam * own + (1 - lam) * own.flip(0)


def load(name, root=None, size=None, download=False):
    """Load a data set into memory by its name, one of `NAMES`.

    `fashion_mnist_5k` comes with the package. `fashion_mnist`, `cifar10` and `cifar100` are torchvision's, in
    the folder `root`; `download=True` fetches them if they are not there. `folder` reads root/train/<class>/*
    and root/val/<class>/* in RGB, shorter side resized to `size` pixels, centre cropped to size x size: in
    memory 3*size*size bytes an image. Every file is checked. Raises FileNotFoundError for missing data,
    ValueError for an unknown name, a wrong argument or a bad file, ConnectionError for a failed download.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}; the known ones are {', '.join(NAMES)}.")
    if size is not None and name != "folder":
        raise ValueError(f"size is for 'folder' only; images of {name} have their own, so leave it out.")
    if name == "fashion_mnist_5k":
        return _embedded()
    if root is None:
        raise ValueError(f"{name} needs root=..., the folder with its files ('folder': train/ and val/).")
    root = Path(root).expanduser()
    if name == "folder":
        return _folder(root, size)
    from ._torchvision import read

    return _dataset(name, *read(name, root, download))


def _dataset(name, train_images, train_labels, test_images, test_labels, classes):
    # Sums of whole numbers are exact, so that mean and std are the same to the bit on every machine.
    counts = torch.stack([torch.bincount(plane.flatten(), minlength=256) for plane in train_images.unbind(1)])
    value, total = torch.arange(256), counts.sum(1).cpu().double()  # counts (C, 256)
    mean = (counts * value).sum(1) / total  # (C,), of 0..255
    std = ((counts * value**2).sum(1) / total - mean**2).clamp(min=1).sqrt()  # never 0, even for plain images
    mean, std = (mean / 255).float(), (std / 255).float()
    return Dataset(name, train_images, train_labels, test_images, test_labels, tuple(classes), mean, std)


def _embedded_file():
    return resources.files(__package__) / "datasets" / "fashion_mnist_5k.npz"


def _embedded():
    path, remedy = _embedded_file(), "reinstall the package, or remake it with scripts/make_embedded.py."
    tensors = []
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            for split in ("train", "test"):
                tensors.append(torch.from_numpy(arrays[f"{split}_images"])[:, None])  # (M, 1, 28, 28)
                tensors.append(torch.from_numpy(arrays[f"{split}_labels"]).long())
        data = _dataset("fashion_mnist_5k", *tensors, CLOTHES)
    except FileNotFoundError:
        raise FileNotFoundError(f"the embedded data file {path} is missing; {remedy}") from None
    except Exception as error:  # zipfile, zlib and numpy each have their own for a damaged archive
        raise ValueError(f"the embedded data file {path} cannot be read ({error}); {remedy}") from error
    if data.checksum() != EMBEDDED_SHA256:
        raise ValueError(f"the embedded data file {path} is altered (its images' sha256 differs); {remedy}")
    return data


def class_files(root, splits=("train", "val")):
    """The image files of an image folder: {split: {class: names below root/split}}, in alphabetical order.

    Only what is in `splits` is looked at. Raises FileNotFoundError where it is missing, ValueError for a class
    without images and for classes that differ, naming them.
    """
    missing = [split for split in splits if not (root / split).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{root} must hold {' and '.join(f'{split}/' for split in splits)}, each with one sub-folder of images a "
            f"class; there is no {' and no '.join(missing)} in it."
        )
    found = {split: _classes(root / split) for split in splits}
    first, last = found[splits[0]], found[splits[-1]]
    odd = sorted(first.keys() ^ last.keys())
    if odd or not first:
        words = f"{', '.join(odd[:5])}{' and others' * (len(odd) > 5)} in one only" if odd else "there is none"
        raise ValueError(f"train/ and val/ of {root} must have the same class folders: {words}.")
    return found


def _classes(folder):
    """Class -> its image files, below `folder`, sorted. ImageNet has a million: no Path for each."""
    classes = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        files = [os.path.join(place, name) for place, _, names in os.walk(entry.path) for name in names]
        files = [file for file in files if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES]
        if not files:
            raise ValueError(f"{entry.path} holds no image; put one there, or remove the class from train/ and val/.")
        classes[entry.name] = sorted(os.path.relpath(file, folder) for file in files)
    return classes


def _folder(root, size):
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"folder needs size=..., the side in pixels to bring every image to, not {size!r}.")
    files = class_files(root)
    tensors = []
    for split, by_class in files.items():
        paths = [root / split / name for found in by_class.values() for name in found]
        labels = [label for label, found in enumerate(by_class.values()) for _ in found]
        images = np.empty((len(paths), 3, size, size), np.uint8)
        with ThreadPoolExecutor() as pool:  # decoding and resizing release Python's lock
            list(pool.map(_read_image, paths, images))
        tensors += [torch.from_numpy(images), torch.tensor(labels)]
    return _dataset(root.resolve().name, *tensors, files["train"])


def _read_image(path, out):
    """Fill out (3, size, size) uint8 from the image file at `path`."""
    from PIL import Image

    size = out.shape[-1]
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except Exception as error:  # Pillow raises many kinds, depending on the format
        raise ValueError(f"folder: {path} is no readable image ({error}); replace or remove it.") from error
    wide, high = (max(size, round(side * size / min(image.size))) for side in image.size)
    image = image.resize((wide, high), Image.Resampling.BICUBIC)  # Pillow's own is antialiased
    left, top = (wide - size) // 2, (high - size) // 2
    out[:] = np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)
