"""torchvision: make its import (and so timm's) work beside a CPU-only torch, and read its data sets."""

import hashlib
import sys
from pathlib import Path

import torch
from torch import Tensor

# The operators that torchvision's own Python code refers to while it is being imported.
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# torchvision knows md5 sums of Fashion-MNIST's packed files, but reads the unpacked ones; these are theirs.
FASHION_MNIST_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
_library = None  # operators vanish with the Library object that defined them, so it is kept here


def ensure_importable() -> None:
    """Import torchvision, with its operators `nms` and `qnms` defined by name if it cannot bring its own.

    torchvision's Linux wheels are linked to CUDA. Beside a CPU-only torch their compiled extension cannot
    load, and the import stops with "operator torchvision::nms does not exist", although nothing here uses it.
    With the names declared the import succeeds; calling such an operator still fails, with a clear message.

    torchvision itself decides: nothing is defined unless its import says so, because a name that the extension
    then registers as well ends the interpreter. Does nothing if torchvision is absent; any other failure of its
    import is raised. Call it freely.
    """
    global _library
    try:
        _import_afresh()
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
    except RuntimeError as error:
        if _library is not None or "torchvision::nms" not in str(error):
            raise
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name, schema in _SCHEMAS.items():
            if not hasattr(torch.ops.torchvision, name):  # another package may use the same remedy
                _library.define(schema)
        _import_afresh()


def _import_afresh() -> None:
    """Import torchvision; the sub-modules that a failed import left behind would make the next one stumble."""
    if "torchvision" not in sys.modules:
        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]
    import torchvision  # noqa: F401


def read(name: str, root: Path, download: bool = False) -> tuple[list[Tensor], list[str]]:
    """Read `fashion_mnist`, `cifar10` or `cifar100` from the folder `root` (a Path), every file checked.

    Returns [training images (M, C, h, w) uint8, labels (M,) int64, the same for test], and the class names.
    Raises FileNotFoundError for a missing file, ValueError for a bad one, ConnectionError for no download.
    """
    ensure_importable()
    from torchvision import datasets

    if name == "fashion_mnist":
        source, folder, files = datasets.FashionMNIST, root / "FashionMNIST" / "raw", FASHION_MNIST_MD5
    else:
        source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
        folder, meta = root / source.base_folder, (source.meta["filename"], source.meta["md5"])
        files = dict([*source.train_list, *source.test_list, meta])
    if download and not all((folder / file).is_file() for file in files):
        try:
            source(root, download=True)
        except (RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise ConnectionError(f"{name} could not be downloaded into {root} ({reason}); check the network "
                                  f"and the folder, or put the unpacked files into {folder}.") from error
    for file, md5 in files.items():  # before torchvision reads them, so that the message can name the file
        path = folder / file
        if not path.is_file():
            raise FileNotFoundError(f"{name}: {path} is missing; with a network pass download=True, "
                                    f"otherwise put torchvision's unpacked files into {folder}.")
        try:
            with path.open("rb") as content:
                found = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        except OSError as error:
            raise OSError(error.errno, f"{name}: {path} cannot be read ({error.strerror})") from error
        if found != md5:
            raise ValueError(f"{name}: {path} is truncated or altered (its md5 is not the published one); "
                             "move it away and fetch it again, for instance with download=True.")
    tensors = []
    for split in (source(root, train=True), source(root, train=False)):
        images = torch.as_tensor(split.data)  # (M, 28, 28) or (M, 32, 32, 3)
        images = images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2)  # (M, C, h, w)
        tensors += [images.contiguous(), torch.as_tensor(split.targets)]
    return tensors, split.classes
