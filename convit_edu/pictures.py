"""Picture files: which ones the class folders of a data set hold, and how one of them becomes 8-bit pixels.

Everything that reads a picture reads it here: `data.load("folder", ...)`, `imagenet`, and the widget for a picture of
one's own. Needs Pillow.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow knows more; for EPS it starts Ghostscript
SUFFIXES = set(".bmp .gif .jfif .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split())
LARGEST = 2**26  # pixels: what a file of 90 bytes can declare otherwise takes gigabytes to decode
NARROWEST = 100  # long side over short side: resizing the short side would make the long one huge


def read_picture(source: str | Path | bytes, mode: str = "RGB", name: str | None = None) -> "Image.Image":
    """The first picture in a file (its path, or its bytes) as a Pillow image in `mode`, "RGB" or "L".

    Turned as its EXIF data say that the camera was held. What is not 8 bits a channel is scaled (16-bit grey) or
    refused (32-bit integers, floats, Lab); transparent parts lie on white, where most programs show them. `name` stands
    for the picture in errors. Raises ValueError for what is no such picture, OSError for a file that cannot be opened,
    MemoryError where memory is short, which is no fault of the file's.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = name or (str(source) if isinstance(source, str | Path) else "This file")
    if isinstance(source, str | Path):
        try:
            if not stat.S_ISREG(os.stat(source).st_mode):  # opening a pipe would wait for ever
                raise ValueError(f"{name} is no picture that can be read: it is a folder, a pipe or a device.")
            file: BinaryIO = open(source, "rb")
        except OSError as error:
            raise OSError(error.errno, f"{name} cannot be opened ({error.strerror})") from error
    else:
        file = BytesIO(source)
    try:
        with file, Image.open(file, formats=FORMATS) as picture:
            wide, high = picture.size
            if wide * high > LARGEST or max(wide, high) > NARROWEST * min(wide, high):  # before anything is decoded
                raise ValueError(
                    f"it is {wide} x {high} pixels; at most {LARGEST / 1e6:.0f} million are read, and no side "
                    f"of more than {NARROWEST} times the other"
                )
            picture.load()
            try:
                ImageOps.exif_transpose(picture, in_place=True)
            except MemoryError:
                raise
            except Exception:  # EXIF data that cannot be read: nothing is known of the camera
                pass
            return _eight_bits(picture).convert(mode)
    except Exception as error:  # Pillow raises many kinds, depending on the format
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the picture
            raise
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            raise MemoryError(f"Too little memory is free to read {name}.") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"it is none of {', '.join(FORMATS)}, or damaged"
        raise ValueError(f"{name} is no picture that can be read: {reason.rstrip('.')}.") from error


def _eight_bits(picture: "Image.Image") -> "Image.Image":
    """The same picture with 8 bits a channel and nothing transparent. ValueError where that would not be faithful."""
    from PIL import Image

    mode = picture.mode
    sixteen = mode.startswith("I;16") or (mode == "I" and picture.format in ("PNG", "PPM"))
    if sixteen and picture.format == "TIFF":  # 12 bits, and scales on which 0 is white, arrive in this mode too
        sixteen = tuple(getattr(picture, "tag_v2", {}).get(tag) for tag in (258, 262)) in (((16,), 1), (16, 1))
    if sixteen and not picture.has_transparency_data:
        values = np.asarray(picture).astype(np.float64)  # (h, w), 0..65535
        found = Image.fromarray((values / 257).round().astype(np.uint8))
    elif mode in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr") and not picture.has_transparency_data:
        return picture
    elif mode in ("L", "P", "RGB", "LA", "PA", "RGBA", "La", "RGBa"):
        seen = picture.convert("RGBA")
        found = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    else:
        clear = " with a transparent value" * picture.has_transparency_data
        raise ValueError(f"its pixels (Pillow's mode {mode}{clear}) cannot be shown faithfully in 8 bits; save it so")
    return found


def class_files(
    root: Path, splits: Sequence[str] = ("train", "val")
) -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """The pictures of an image folder, {split: {class: names below root/split}}, sorted; and a list of what is not.

    Pictures are found at any depth, through links too. Left out, and named in a list of paths, are files of other
    endings, hidden files and folders, and what lies beside the class folders. Raises FileNotFoundError where a split is
    missing, OSError for a folder that cannot be read, and ValueError, with names, for classes that differ or have no
    picture, for fewer than two classes, and for what is neither file nor folder.
    """
    missing = [split for split in splits if not (root / split).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{root} must hold {' and '.join(f'{split}/' for split in splits)}, each with one sub-folder of images a "
            f"class; there is no {' and no '.join(missing)} in it."
        )
    if len(splits) > 1 and os.path.samefile(*(root / split for split in splits)):
        raise ValueError(f"{' and '.join(splits)} of {root} are the same folder; the test needs other images.")
    left_out: list[str] = []
    found = {split: _classes(root / split, left_out) for split in splits}
    first, last = found[splits[0]], found[splits[-1]]
    if odd := sorted(first.keys() ^ last.keys()):
        words = f"{', '.join(odd[:5])}{' and others' * (len(odd) > 5)} in one only"
        raise ValueError(f"train/ and val/ of {root} must have the same class folders: {words}.")
    if len(first) < 2:
        words = f"only {next(iter(first))}" if first else "none"
        raise ValueError(f"{root / splits[0]} must have a sub-folder for each of two or more classes; it has {words}.")
    return found, left_out


def _classes(folder: Path, left_out: list[str]) -> dict[str, list[str]]:
    """Class -> its pictures, below `folder`, sorted. ImageNet has a million: no Path for each."""
    classes: dict[str, list[str]] = {}
    loose, here = [], os.path.realpath(folder)
    for entry in _entries(folder):
        if entry.name.startswith(".") or not entry.is_dir():
            loose.append(entry.path)
            continue
        files = classes[entry.name] = sorted(os.path.relpath(p, folder) for p in _below(entry.path, left_out, {here}))
        if not files:
            raise ValueError(f"{entry.path} holds no image; put one there, or remove the class from train/ and val/.")
    pictures = [path for path in loose if _is_picture(path)]
    if pictures and not classes:
        known = os.path.basename(pictures[0]).startswith("ILSVRC2012_val_")
        raise ValueError(
            f"{folder} holds {len(pictures)} pictures and no folder"
            f"{', as ImageNet is handed out' * known}; move each into a sub-folder named as its class in train/"
            f"{' (the devkit has the classes, in ILSVRC2012_validation_ground_truth.txt)' * known}."
        )
    left_out += loose
    return classes


def _below(folder: str, left_out: list[str], above: set[str]) -> Iterator[str]:
    """The pictures below `folder`; adds the rest to `left_out`. `above`: the true paths of the folders it lies in."""
    here = os.path.realpath(folder)
    if here in above:
        raise ValueError(f"{folder} is a link to a folder that it lies in; remove the link.")
    for entry in _entries(folder):
        if entry.name.startswith(".") or not (entry.is_dir() or _is_picture(entry.name)):
            left_out.append(entry.path)
        elif entry.is_dir():
            yield from _below(entry.path, left_out, above | {here})
        elif entry.is_file():
            yield entry.path
        else:
            kind = "a link to nothing" if entry.is_symlink() else "a pipe, a socket or a device"
            raise ValueError(f"{entry.path} is {kind}, not a picture; repair or remove it.")


def _entries(folder: str | Path) -> list[os.DirEntry]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise OSError(error.errno, f"{folder} cannot be read ({error.strerror})") from error


def _is_picture(name: str) -> bool:
    return not os.path.basename(name).startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def left_out_words(root: Path, left_out: list[str]) -> str:
    """One sentence on what `class_files` has left out."""
    names = ", ".join(os.path.relpath(path, root) for path in left_out[:3]) + ", ..." * (len(left_out) > 3)
    words = f"Left out of {root}, being hidden, in no class, or not named as pictures: {len(left_out)} ({names})."
    return words.encode(errors="replace").decode()  # a name need not be valid text
