"""torchvision: make its import (and so timm's) work beside a CPU-only torch, and read CIFAR."""

import sys
from pathlib import Path

import torch
from torch import Tensor

# The operators that torchvision's own Python code refers to while it is being imported.
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
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


def cifar(name: str, root: Path, download: bool = False) -> tuple[list[Tensor], list[str]]:
    """Read `cifar10` or `cifar100` from the folder `root`; torchvision checks every file.

    Returns [training images (M, 3, 32, 32) uint8, labels (M,) int64, the same for test], and the class names.
    Raises FileNotFoundError for a missing file, ValueError for a bad one, ConnectionError for no download.
    """
    ensure_importable()
    from torchvision import datasets

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder = root / source.base_folder
    files = [folder / file for file, _ in source.train_list + source.test_list] + [folder / source.meta["filename"]]
    if download and not all(file.is_file() for file in files):
        try:
            source(root, download=True)
        except (RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise ConnectionError(f"{name} could not be downloaded into {root} ({reason}); check the network "
                                  f"and the folder, or put the unpacked files into {folder}.") from error
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{name}: {file} is missing; with a network pass download=True, "
                                    f"otherwise put torchvision's unpacked files into {folder}.")
    try:
        train, test = (source(root, train=split) for split in (True, False))
    except RuntimeError as error:  # a checksum differs
        raise ValueError(f"{name}: a file in {folder} is truncated or altered (its md5 is not the published one); "
                         "move the folder away and fetch it again, for instance with download=True.") from error
    tensors = []
    for split in (train, test):
        images = torch.as_tensor(split.data).permute(0, 3, 1, 2).contiguous()  # (M, 3, 32, 32)
        tensors += [images, torch.as_tensor(split.targets)]
    return tensors, train.classes
