import hashlib
import itertools
import os
import pickle
import shutil
from dataclasses import replace
from itertools import islice
from urllib.error import URLError

import numpy as np
import pytest
import torch
from loading import module_at

from convit_edu import _torchvision, data
from convit_edu.augment import augment
from convit_edu.data import Dataset, batches, load, seeded


@pytest.fixture(scope="module")
def embedded():
    return load("fashion_mnist_5k")


def made_up(counts, num_test=4):
    """A set whose training image i has the pixel value i, so that images can be told apart."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].repeat(1, 1, 2, 2)
    test = torch.full((num_test, 1, 2, 2), 255, dtype=torch.uint8), torch.zeros(num_test, dtype=torch.int64)
    classes = tuple(str(label) for label in range(len(counts)))
    return Dataset("made_up", images, labels, *test, classes, torch.zeros(1), torch.ones(1))


def identities(dataset):
    return dataset.train_images[:, 0, 0, 0].tolist()


def count(labels, num_classes=10):
    return torch.bincount(labels, minlength=num_classes).tolist()


# ---- the embedded set


def test_embedded_set(embedded):
    assert embedded.image_shape == (1, 28, 28) and embedded.classes[9] == "Ankle boot"
    assert count(embedded.train_labels) == [500] * 10 and count(embedded.test_labels) == [100] * 10
    train, test = ({x.numpy().tobytes() for x in each} for each in (embedded.train_images, embedded.test_images))
    assert not train & test
    pixels = embedded.train_images.double() / 255
    assert embedded.mean.item() == pytest.approx(pixels.mean().item(), abs=1e-7)
    assert embedded.std.item() == pytest.approx(pixels.std(correction=0).item(), abs=1e-7)
    normal = embedded.normalize(embedded.train_images)
    torch.testing.assert_close(normal, ((pixels - embedded.mean) / embedded.std).float())
    assert embedded.normalize(embedded.train_images[:2], torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="normalised already"):
        embedded.normalize(normal)


def test_a_plain_channel_does_not_divide_by_zero():
    images, labels = torch.full((2, 3, 4, 4), 7, dtype=torch.uint8), torch.tensor([0, 1])
    plain = data._dataset("plain", [images, labels, images, labels], ["a", "b"])
    assert torch.equal(plain.normalize(images), torch.zeros(2, 3, 4, 4))


def spoiled(how, path):
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[:1_000_000])
    elif how == "one bit":
        content[1_000_000] ^= 1
        path.write_bytes(content)
    else:  # one label is another, in a file that is whole
        with np.load(path) as file:
            arrays = dict(file)
        arrays["train_labels"][123] ^= 1
        np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [("missing", FileNotFoundError, "is missing; reinstall"), ("truncated", ValueError, "cannot be read .*; reinstall"),
     ("one bit", ValueError, "cannot be read .*; reinstall"), ("altered", ValueError, "is altered .*sha256")],
)  # fmt: skip
def test_a_spoiled_embedded_file_is_named(tmp_path, monkeypatch, how, error, words):
    copy = tmp_path / "copy.npz"
    shutil.copy(data._embedded_file(), copy)
    monkeypatch.setattr(data, "_embedded_file", lambda: copy)
    spoiled(how, copy)
    with pytest.raises(error, match=rf"copy\.npz {words}"):
        load("fashion_mnist_5k")


# ---- names and arguments


def test_wrong_names_and_arguments_are_named(tmp_path):
    for name, options, words in (
        ("mnist", {}, f"'mnist'.*{', '.join(data.NAMES)}"),
        ("cifar100", {}, "cifar100 needs root"),
        ("folder", {"size": 8}, "folder needs root"),
        ("cifar100", {"root": tmp_path, "size": 32}, "size is for 'folder' only"),
    ):
        with pytest.raises(ValueError, match=words):
            load(name, **options)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_images": torch.randn(4, 1, 2, 2)}, "train images as uint8 pixels.*torch.float32, -?[0-9.]+ to"),
        ({"train_images": torch.zeros(4, 2, 2, dtype=torch.uint8)}, r"uint8 \(M, C, h, w\)"),
        ({"train_images": np.zeros((4, 1, 2, 2), np.uint8)}, "as tensors, not ndarray"),
        ({"train_labels": torch.tensor([0, 1, 1])}, r"int64 \(M,\)"),
        ({"train_labels": torch.tensor([0, 1, 1, 0], dtype=torch.int32)}, "int32"),
        ({"train_labels": torch.tensor([1, 2, 2, 1])}, r"train labels in 0\.\.1, not 1 to 2"),
        ({"test_labels": torch.tensor([-1, 0, 0, 0])}, r"test labels in 0\.\.1, not -1 to 0"),
        ({"test_images": torch.zeros(0, 1, 2, 2, dtype=torch.uint8), "test_labels": torch.zeros(0).long()}, "M >= 1"),
        ({"test_images": torch.zeros(4, 3, 2, 2, dtype=torch.uint8)}, r"the shape \(1, 2, 2\)"),
        ({"classes": ("0",), "train_labels": torch.zeros(4).long()}, "two or more classes"),
        ({"classes": ("0", "0")}, "different names"),
        ({"mean": torch.zeros(3)}, "mean as a tensor"),
        ({"mean": torch.tensor([torch.nan])}, "a finite mean"),
        ({"std": torch.zeros(1)}, "std, above 0"),
    ],
)
def test_dataset_refuses_what_its_docstring_excludes(changes, words):
    with pytest.raises(ValueError, match=f"made_up: expected .*{words}"):
        replace(made_up([2, 2]), **changes)


def test_to_moves_every_tensor():
    moved = made_up([2, 2]).to("meta")
    assert {value.device.type for value in vars(moved).values() if torch.is_tensor(value)} == {"meta"}


# ---- subsets


@pytest.mark.parametrize("counts", [[20] * 5, [3, 40, 11, 27]])
def test_subsets_are_nested_and_as_balanced_as_classes_permit(counts):
    full, previous = made_up(counts), set()
    for size in range(len(counts), sum(counts) + 1):
        subset = full.subset(size, seed=3)
        current = set(identities(subset))
        assert len(current) == len(subset.train_labels) == size and previous < current
        got = count(subset.train_labels, len(counts))
        # A class lies more than one below the largest only where it is used up.
        assert all(max(got) - used <= 1 or used == limit for used, limit in zip(got, counts, strict=True))
        previous = current
    previous = set()
    for fraction in (0.2, 0.3, 0.5, 0.55, 1.0):
        subset = full.subset(fraction=fraction)
        assert previous <= set(identities(subset))
        previous = set(identities(subset))
        assert count(subset.train_labels, len(counts)) == [int(fraction * number + 0.5) for number in counts]


def test_subsets_keep_labels_test_images_and_normalisation_and_follow_their_seed():
    full = replace(made_up([30] * 5), mean=torch.tensor([0.3]), std=torch.tensor([0.2]))
    subset, again = full.subset(20, seed=0), full.subset(20, seed=0)
    assert torch.equal(full.train_labels[identities(subset)], subset.train_labels)
    assert torch.equal(subset.test_images, full.test_images) and (subset.mean, subset.std) == (full.mean, full.std)
    assert subset.checksum() == again.checksum() != full.checksum()
    assert identities(full.subset(fraction=0.4, seed=0))[:20] == identities(subset)  # the larger one begins with it
    chosen = [set(identities(full.subset(20, seed=seed))) for seed in range(4)]
    assert all(a != b for a, b in itertools.combinations(chosen, 2))
    favoured = {tuple(count(full.subset(22, seed=seed).train_labels, 5)) for seed in range(10)}
    assert len(favoured) > 3  # a remainder is not always given to the same classes


# ---- held-out images


def test_held_out_splits_the_training_images_and_leaves_test_alone():
    full = made_up([20] * 5)
    split, again, other = (full.held_out(0.1, seed=seed) for seed in (2, 2, 3))
    kept, aside = identities(split), split.test_images[:, 0, 0, 0].tolist()
    assert sorted(kept + aside) == list(range(100))  # each once, and not 255, the value of the true test images
    assert count(split.test_labels, 5) == [2] * 5 and count(split.train_labels, 5) == [18] * 5
    assert torch.equal(full.train_labels[aside], split.test_labels) and torch.equal(split.mean, full.mean)
    assert torch.equal(again.test_images, split.test_images)
    assert not torch.equal(other.test_images, split.test_images)
    # Drawn from the subset's stream they would be the images of the small subset, none of which could be trained on.
    aside, small = set(full.held_out(0.2).test_images[:, 0, 0, 0].tolist()), set(identities(full.subset(20)))
    assert len(aside) == len(small) == 20 and len(aside & small) < 12  # 4 expected by chance


# ---- what cannot be asked for


FIFTY = made_up([10] * 5)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: FIFTY.subset(), "either size"),
        (lambda: FIFTY.subset(10, fraction=0.5), "either size"),
        (lambda: FIFTY.subset(51), "51 images are more than there are; made_up has 50"),
        (lambda: FIFTY.subset(4), "4 images are fewer than one a class"),
        (lambda: FIFTY.subset(10.5), "whole number, not 10.5"),
        (lambda: FIFTY.subset(10, seed=0.5), "seed is a whole number of at least 0, not 0.5"),
        (lambda: FIFTY.subset(fraction=0.0), r"lie in \(0, 1\]"),
        (lambda: FIFTY.subset(fraction=1.01), r"lie in \(0, 1\]"),
        (lambda: FIFTY.subset(fraction="0.5"), "fraction must lie"),
        (lambda: FIFTY.subset(fraction=0.01), "below one image a class"),
        (lambda: FIFTY.held_out(0.01), "on both sides; the smallest class of made_up has 10"),
        (lambda: made_up([20, 1]).held_out(0.5), "on both sides; the smallest class of made_up has 1"),
        (lambda: FIFTY.held_out("0.1"), r"not '0\.1'"),
        (lambda: batches(0, 4, 0), "batches: num_images is a whole number of at least 1"),
        (lambda: batches(4, 2.5, 0), "batches: batch_size is a whole number of at least 1"),
        (lambda: batches(4, 4, 0, -1), "batches: start_step is a whole number of at least 0"),
        (lambda: augment(noise(3, 8, 8), seeded(0, "x")), r"augment needs images \(B, C, h, w\)"),
        (lambda: augment(noise(2, 3, 8, 8), seeded(0, "x"), padding=-1), "padding >= 0"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(ask, words):
    with pytest.raises(ValueError, match=words):
        ask()


# ---- batches


@pytest.mark.parametrize(("num_images", "batch_size"), [(20, 5), (20, 7), (5, 13)])
def test_batches_are_full_cover_every_image_once_an_epoch_and_are_entered_at_any_step(num_images, batch_size):
    steps = list(islice(batches(num_images, batch_size, seed=4), 3 * num_images))
    assert all(index.shape == (batch_size,) and index.dtype == torch.int64 for index in steps)
    epochs = torch.cat(steps)[: 3 * num_images].view(3, num_images)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(num_images).expand(3, -1))
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])
    for start in range(10):
        again = list(islice(batches(num_images, batch_size, seed=4, start_step=start), 5))
        assert torch.equal(torch.stack(again), torch.stack(steps[start : start + 5]))
    assert next(batches(num_images, batch_size, seed=5)).tolist() != steps[0].tolist()


def test_seeded_streams_differ_and_repeat():
    keys = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]
    draws = [torch.randint(2**60, (1,), generator=seeded(*key)).item() for key in keys]
    assert len(set(draws)) == 4
    assert torch.randint(2**60, (1,), generator=seeded(*keys[0])).item() == draws[0]


# ---- augmentation


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def candidates(image, padding):
    """Every flip and crop of one image (C, h, w), made the plain way."""
    C, h, w = image.shape
    found = {}
    for flip in (False, True):
        padded = torch.zeros(C, h + 2 * padding, w + 2 * padding, dtype=image.dtype)
        padded[:, padding : padding + h, padding : padding + w] = image.flip(-1) if flip else image
        for top, left in itertools.product(range(2 * padding + 1), repeat=2):
            found[flip, top, left] = padded[:, top : top + h, left : left + w]
    return found


@pytest.mark.parametrize(("shape", "dtype"), [((40, 1, 6, 6), torch.uint8), ((40, 3, 5, 8), torch.float32)])
def test_every_output_is_a_flip_and_crop_of_its_own_input(shape, dtype):
    images = noise(*shape).to(dtype)
    before = images.clone()
    output = augment(images, seeded(0, "augment"), padding=1)
    assert output.shape == images.shape and output.dtype == dtype and torch.equal(images, before)
    for image, result in zip(images, output, strict=True):
        assert sum(torch.equal(value, result) for value in candidates(image, 1).values()) == 1


def test_flips_are_even_and_crops_uniform():
    image = noise(1, 1, 4, 4).expand(9000, -1, -1, -1)
    output = augment(image, seeded(0, "augment"), padding=1)
    kinds, numbers = torch.unique(output, dim=0, return_counts=True)
    assert len(kinds) == 18
    assert numbers.min() > 400 and numbers.max() < 600  # 500 expected, standard deviation 22


def test_augmentation_can_be_switched_off_by_parts():
    images = noise(30, 2, 6, 6)
    flipped = augment(images, seeded(0, "x"), flip=True, padding=0)
    is_same = (flipped == images).flatten(1).all(1)
    assert 0 < is_same.sum() < 30 and torch.equal(flipped[~is_same], images[~is_same].flip(-1))
    # With and without flips the crops are the same.
    both, cropped = (augment(images, seeded(0, "x"), flip=flip, padding=2) for flip in (True, False))
    assert torch.equal(both[is_same], cropped[is_same])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_augmentation_and_normalisation_are_the_same_on_a_gpu(embedded):
    images = embedded.train_images[:64]
    here, there = augment(images, seeded(0, "augment")), augment(images.cuda(), seeded(0, "augment"))
    assert there.is_cuda and torch.equal(here, there.cpu())
    torch.testing.assert_close(embedded.normalize(there).cpu(), embedded.normalize(here))


# ---- image folders


@pytest.fixture
def folder(tmp_path):
    """Two classes in train/ and val/, of several sizes and formats: cats are red, dogs are blue."""
    image = pytest.importorskip("PIL.Image")
    for split, label, name, shape in (
        ("train", "cat", "a.png", (40, 20)), ("train", "cat", "b.JPG", (16, 16)),
        ("train", "dog", "c.png", (9, 30)), ("train", "dog", "deep/d.webp", (64, 64)),
        ("train", "dog", "e.png", (8, 8)),
        ("val", "cat", "f.png", (12, 12)), ("val", "dog", "g.png", (33, 17)),
    ):  # fmt: skip
        path = tmp_path / split / label / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", shape, (200, 0, 0) if label == "cat" else (0, 0, 200)).save(path)
    return tmp_path


def test_folder_is_read_resized_and_labelled(folder):
    found = load("folder", root=str(folder), size=8)
    assert found.train_images.shape == (5, 3, 8, 8) and found.train_images.dtype == torch.uint8
    assert found.train_labels.tolist() == [0, 0, 1, 1, 1] and found.test_labels.tolist() == [0, 1]
    assert found.classes == ("cat", "dog") and found.name == folder.name
    red, blue = found.train_images.float()[:, 0].mean((1, 2)), found.train_images.float()[:, 2].mean((1, 2))
    assert ((red > blue) == (found.train_labels == 0)).all()
    assert torch.allclose(found.mean, found.train_images.float().mean((0, 2, 3)) / 255)


def test_folder_keeps_the_centre_and_shrinks_without_aliasing(folder):
    from PIL import Image

    stripes = np.zeros((4, 12, 3), np.uint8)
    stripes[:, 4:8] = 255  # the centre square is white
    board = np.indices((64, 64)).sum(0) % 2 * 255  # a checkerboard is grey from afar
    for name, pixels in (("f", stripes), ("h", stripes.transpose(1, 0, 2).copy()), ("i", board.astype(np.uint8))):
        Image.fromarray(pixels).save(folder / "val" / "cat" / f"{name}.png")
    wide, high, grey = load("folder", root=folder, size=4).test_images[:3].float()
    assert (wide == 255).all() and (high == 255).all()
    assert (grey[:, 1:3, 1:3] - 127.5).abs().max() < 3


@pytest.mark.parametrize("size", [None, 0, 8.0])
def test_folder_needs_a_size(folder, size):
    with pytest.raises(ValueError, match=f"size.*whole number.*{size!r}"):
        load("folder", root=folder, size=size)


def test_folder_that_does_not_fit_into_memory_is_told_so(folder):
    with pytest.raises(MemoryError, match=r"5 images of 10000000 x 10000000 .* smaller size"):
        load("folder", root=folder, size=10_000_000)


def test_what_a_folder_leaves_out_is_counted_and_the_rest_is_read(folder):
    (folder / "train" / "cat" / "notes.txt").write_text("no image")
    (folder / "train" / ".hidden").mkdir()
    with pytest.warns(UserWarning, match=r"Left out .*: 2 \(.*notes\.txt"):
        assert load("folder", root=folder, size=8).train_labels.tolist() == [0, 0, 1, 1, 1]


def test_a_home_folder_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load("folder", root=f"~/{folder.name}", size=8).classes == ("cat", "dog")


def test_unreadable_image_is_named(folder):
    os.truncate(folder / "train" / "dog" / "c.png", 40)
    with pytest.raises(ValueError, match=r"c\.png is no picture that can be read"):
        load("folder", root=folder, size=8)


# ---- CIFAR


@pytest.fixture(params=[("cifar10", "CIFAR10", ""), ("cifar100", "CIFAR100", "fine_")], ids=lambda param: param[0])
def cifar(request, tmp_path, monkeypatch):
    """The published files are too large for a test: made-up ones of that layout, with their md5 sums."""
    _torchvision.ensure_importable()
    from torchvision import datasets

    name, kind, fine = request.param
    source, pixels, sums = getattr(datasets, kind), noise(5, 3, 32, 32).numpy(), {}
    contents = {
        "train": {"data": pixels[:3].reshape(3, -1), f"{fine}labels": [2, 0, 1]},
        "test": {"data": pixels[3:].reshape(2, -1), f"{fine}labels": [1, 1]},
        "meta": {f"{fine}label_names": ["apple", "bear", "cup"]},
    }
    folder = tmp_path / source.base_folder
    folder.mkdir()
    for file, content in contents.items():
        packed = pickle.dumps(content)
        (folder / file).write_bytes(packed)
        sums[file] = hashlib.md5(packed).hexdigest()
    monkeypatch.setattr(source, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(source, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(source, "meta", {"filename": "meta", "key": f"{fine}label_names", "md5": sums["meta"]})
    return name, source, folder, pixels


def test_cifar_becomes_a_dataset(cifar, tmp_path):
    name, _, _, pixels = cifar
    found = load(name, root=tmp_path)
    assert np.array_equal(found.train_images, pixels[:3]) and np.array_equal(found.test_images, pixels[3:])
    assert found.train_labels.tolist() == [2, 0, 1] and found.test_labels.tolist() == [1, 1]
    assert found.classes == ("apple", "bear", "cup") and found.mean.shape == (3,)


def test_cifar_that_is_missing_altered_or_out_of_reach_is_named(cifar, tmp_path, monkeypatch):
    name, source, folder, _ = cifar
    for file in ("train", "meta"):
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[:-1])
        with pytest.raises(ValueError, match=f"a file in {folder} is truncated or altered"):
            load(name, root=tmp_path)
        (folder / file).write_bytes(content)
    (folder / "test").unlink()
    with pytest.raises(FileNotFoundError, match=f"{folder}/test is missing; with a network pass download=True"):
        load(name, root=tmp_path)

    def unreachable(self, root, train=True, download=False):
        raise URLError("Name or service\nnot known")

    monkeypatch.setattr(source, "__init__", unreachable)
    with pytest.raises(ConnectionError, match=r"could not be downloaded .*not known.*; check the network"):
        load(name, root=tmp_path, download=True)


# ---- the script that makes the embedded file


def test_script_refuses_other_files_selects_the_first_of_each_class_and_writes_what_the_loader_expects(tmp_path):
    script, name = module_at("scripts/make_embedded.py"), "t10k-labels-idx1-ubyte"
    (tmp_path / name).write_bytes(b"\0" * 10_008)
    with pytest.raises(SystemExit, match=f"{name} is not the published Fashion-MNIST"):
        script.read_idx(tmp_path, name, 8, (10_000,))
    labels = np.concatenate([np.arange(10), np.arange(10)[::-1], np.arange(10)])
    assert script.select(labels, 2).tolist() == list(range(20))
    with np.load(data._embedded_file()) as file:
        arrays = dict(file)
    assert script.sha256(arrays) == data.EMBEDDED_SHA256
    small = {name: array[:3] for name, array in arrays.items()}
    script.write(small, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as file:
        assert all(np.array_equal(file[name], array) for name, array in small.items())
