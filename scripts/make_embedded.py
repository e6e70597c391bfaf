"""Remake convit_edu/datasets/fashion_mnist_5k.npz from the full Fashion-MNIST.

    python scripts/make_embedded.py SOURCE_DIR [--out FILE]

SOURCE_DIR holds the four idx files, packed (.gz) or not: the folder of Debian's dataset-fashion-mnist
(/usr/share/datasets/fashion-mnist) or torchvision's ROOT/FashionMNIST/raw. Selected are the first 500
training and the first 100 test images of each class in the order of the files, kept in that order. The bytes
of the file written depend on the zlib at hand; the arrays do not, and their sha256 is printed.
"""

import argparse
import gzip
import hashlib
import io
import sys
import zlib
from pathlib import Path

import numpy as np

from convit_edu.data import EMBEDDED_SHA256
from convit_edu.saving import write_in_one_move

MD5 = {  # of the unpacked files
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
PER_CLASS = {"train": 500, "test": 100}
DEFAULT_OUT = Path(__file__).resolve().parents[1] / "convit_edu" / "datasets" / "fashion_mnist_5k.npz"


def read_idx(folder, name, header, shape):
    """The array in one idx file: a header of `header` bytes, then uint8 values of `shape`."""
    packed, plain = folder / f"{name}.gz", folder / name
    path = packed if packed.is_file() else plain
    if not path.is_file():
        sys.exit(f"{folder} holds neither {name}.gz nor {name}; give Fashion-MNIST's folder.")
    try:
        content = gzip.decompress(path.read_bytes()) if path == packed else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        sys.exit(f"{path} cannot be unpacked ({error}); fetch it again.")
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != MD5[name]:
        sys.exit(f"{path} is not the published Fashion-MNIST (md5 differs); give another folder.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def select(labels, per_class):
    """Indices of the first `per_class` images of each class, in the order of the file."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in range(10)]))


def sha256(arrays):
    """The same number as convit_edu's Dataset.checksum(): images as uint8, labels as little-endian int64."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(array.astype("<i8") if name.endswith("labels") else array)
    return digest.hexdigest()


def write(arrays, out):
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_in_one_move(out, content.getvalue())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SOURCE_DIR")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    arguments = parser.parse_args()
    arrays = {}
    for split, prefix, count in (("train", "train", 60_000), ("test", "t10k", 10_000)):
        images = read_idx(arguments.source, f"{prefix}-images-idx3-ubyte", 16, (count, 28, 28))
        labels = read_idx(arguments.source, f"{prefix}-labels-idx1-ubyte", 8, (count,))
        chosen = select(labels, PER_CLASS[split])
        arrays |= {f"{split}_images": images[chosen], f"{split}_labels": labels[chosen]}
    print(f"sha256 of the decoded arrays: {sha256(arrays)}")
    if sha256(arrays) != EMBEDDED_SHA256:
        sys.exit("convit_edu.data expects another sha256 (EMBEDDED_SHA256); nothing was written.")
    write(arrays, arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
