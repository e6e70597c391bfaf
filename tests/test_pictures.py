"""The one reader of pictures, and what a class folder holds."""

import io
import os
import shutil
import struct

import numpy as np
import pytest

from convit_edu.pictures import class_files, left_out_words, read_picture

Image = pytest.importorskip("PIL.Image")


def encoded(picture, kind="PNG", **options):
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def pixels(content, mode="RGB"):
    return np.asarray(read_picture(content, mode))


SIXTEEN = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))


# ---- bits and colours


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled(kind):
    content = encoded(SIXTEEN, kind) if kind != "PPM" else b"P5 4 1 65535\n" + np.array(SIXTEEN, ">u2").tobytes()
    assert pixels(content, "L").tolist() == [[0, 1, 128, 255]]
    assert pixels(content)[0, :, 2].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("picture", "options", "mode"),
    [
        (Image.fromarray(np.array([[0, 70_000]], np.int32)), {}, "mode I"),
        (Image.fromarray(np.array([[0, 0.5]], np.float32)), {}, "mode F"),
        (Image.new("LAB", (2, 2)), {}, "mode LAB"),
        (SIXTEEN, {"tiffinfo": {262: 0}}, "mode I;16"),  # white is 0
        (SIXTEEN, {"kind": "PNG", "transparency": 65535}, "mode I;16 with a transparent value"),
    ],
)
def test_what_eight_bits_cannot_show_is_refused_by_name(picture, options, mode):
    with pytest.raises(ValueError, match=rf"{mode}\) cannot be shown faithfully in 8 bits"):
        read_picture(encoded(picture, **({"kind": "TIFF"} | options)))


def palette(**options):
    picture = Image.new("P", (3, 2))
    picture.putpalette([10, 20, 30] * 256)
    return encoded(picture, **options)


@pytest.mark.parametrize(
    ("content", "colour"),
    [
        (encoded(Image.new("RGBA", (3, 2), (10, 20, 30, 255))), (10, 20, 30)),
        (encoded(Image.new("RGBA", (3, 2), (0, 0, 0, 51)), "WEBP", lossless=True), (204, 204, 204)),
        (encoded(Image.new("LA", (3, 2), (10, 0))), (255, 255, 255)),
        (encoded(Image.new("RGB", (3, 2), (1, 2, 3)), transparency=(1, 2, 3)), (255, 255, 255)),
        (palette(), (10, 20, 30)),
        (palette(transparency=0), (255, 255, 255)),
        (encoded(Image.new("1", (3, 2), 1)), (255, 255, 255)),
        (encoded(Image.new("CMYK", (3, 2), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
    ],
    ids="opaque fifth grey-clear one-clear palette palette-clear one-bit cmyk".split(),
)
def test_colours_are_those_that_one_sees(content, colour):
    assert (pixels(content) == colour).all()


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_pictures_stand_as_the_camera_was_held(orientation):
    corner = np.zeros((16, 32, 3), np.uint8)
    corner[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = np.rot90(corner, {1: 0, 3: 2, 6: 3}[orientation])
    assert np.array_equal(pixels(encoded(Image.fromarray(corner), exif=exif)), expected)


def test_broken_exif_data_do_not_break_a_picture(monkeypatch):
    def broken(picture, in_place):
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", broken)
    assert pixels(encoded(Image.new("RGB", (3, 2), "white"))).shape == (2, 3, 3)


# ---- what is no picture, and what is too much


def declaring(wide, high):
    """One pixel in a file that declares so many."""
    content = encoded(Image.new("RGB", (1, 1)), "BMP")
    return content[:18] + struct.pack("<ii", wide, high) + content[26:]


@pytest.mark.parametrize(("wide", "high"), [(1, 50_000), (60_000, 60_000), (8193, 8192)])
def test_pictures_of_absurd_sizes_are_refused_before_they_are_decoded(wide, high):
    with pytest.raises(ValueError, match=f"{wide} x {high}|{wide * high} pixels"):
        read_picture(declaring(wide, high))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize("content", [b"", b"no picture", EPS, encoded(Image.new("RGB", (99, 99)), "JPEG")[:300]],
                         ids=["empty", "text", "EPS", "cut short"])  # fmt: skip
def test_what_is_no_picture_is_refused_by_name(content, tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("Ghostscript was started"))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png is no picture that can be read"):
        read_picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match="Yours is no picture that can be read"):
        read_picture(content, name="Yours")


def test_a_pipe_does_not_hang_and_a_missing_file_is_not_called_broken(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png .* a pipe"):
        read_picture(tmp_path / "pipe.png")
    with pytest.raises(FileNotFoundError, match=r"absent\.png cannot be opened"):
        read_picture(tmp_path / "absent.png")


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory error when reading image file")])
def test_a_lack_of_memory_is_not_called_a_broken_file(error, monkeypatch):
    def load(self):
        raise error

    content = encoded(Image.new("RGB", (3, 2)))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(MemoryError, match="Too little memory is free to read Yours"):
        read_picture(content, name="Yours")


# ---- class folders


@pytest.fixture
def root(tmp_path):
    for split, label in (("train", "cat"), ("train", "dog"), ("val", "cat"), ("val", "dog")):
        (tmp_path / split / label / "deep").mkdir(parents=True)
        for name in ("b.png", "a.JPG", "deep/c.webp"):
            (tmp_path / split / label / name).touch()
    return tmp_path


FILES = ["a.JPG", "b.png", "deep/c.webp"]


def test_classes_and_files_are_sorted(root):
    found, left_out = class_files(root)
    assert list(found) == ["train", "val"] and list(found["train"]) == ["cat", "dog"]
    assert found["val"]["dog"] == [f"dog/{name}" for name in FILES] and left_out == []


def test_what_is_hidden_or_no_picture_is_never_data_and_is_counted(root):
    extra = ("train/.cat/a.png", "train/cat/._a.jpg", "train/cat/deep/.cache/a.png", "train/dog/e.eps", "val/loose.png")
    for path in extra:
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).touch()
    found, left_out = class_files(root)
    expected = {label: [f"{label}/{name}" for name in FILES] for label in ("cat", "dog")}
    assert found == {"train": expected, "val": expected}
    gone = sorted(os.path.relpath(place, root) for place in left_out)
    assert gone == ["train/.cat", "train/cat/._a.jpg", "train/cat/deep/.cache", "train/dog/e.eps", "val/loose.png"]
    assert all(word in left_out_words(root, left_out) for word in (": 5 (", "._a.jpg", ", ..."))


def test_links_are_read(root, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (root / "train" / "dog").rename(elsewhere)
    (root / "train" / "dog").symlink_to(elsewhere)
    (root / "train" / "cat" / "more").symlink_to(elsewhere / "deep")
    (root / "train" / "cat" / "z.png").symlink_to(elsewhere / "b.png")
    found, _ = class_files(root)
    assert found["train"]["dog"] == [f"dog/{name}" for name in FILES]
    assert found["train"]["cat"] == [f"cat/{name}" for name in [*FILES, "more/c.webp", "z.png"]]


def without(*paths):
    return lambda root: [shutil.rmtree(root / path) for path in paths]


def linked(name, target):
    return lambda root: (root / "train" / "dog" / name).symlink_to(root / target)


def the_same(root):
    shutil.rmtree(root / "val")
    (root / "val").symlink_to(root / "train")


def flat(name):
    def spoil(root):
        shutil.rmtree(root / "val")
        (root / "val").mkdir()
        (root / "val" / name).touch()

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (linked("gone.png", "nowhere.png"), r"gone\.png is a link to nothing"),
        (linked("round", "train/dog"), "round is a link to a folder that it lies in"),
        (lambda root: os.mkfifo(root / "train" / "dog" / "pipe.png"), r"pipe\.png is a pipe"),
        (without("val"), "must hold train/ and val/.* there is no val in it"),
        (without("val/dog"), "same class folders: dog in one only"),
        (without("train/dog", "val/dog"), "it has only cat"),
        (without("train/cat", "train/dog", "val/cat", "val/dog"), "it has none"),
        (lambda root: [path.unlink() for path in (root / "val" / "dog").rglob("*.*")], "dog holds no image"),
        (the_same, "train and val .* same folder"),
        (flat("one.png"), "val holds 1 pictures and no folder.*sub-folder named as its class in train/.$"),
        (flat("ILSVRC2012_val_00000001.JPEG"), "val holds 1 .*ILSVRC2012_validation_ground_truth"),
    ],
)
def test_folders_that_are_no_data_set_are_refused(root, spoil, words):
    spoil(root)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        class_files(root)


def test_a_folder_that_may_not_be_read_is_named(root, monkeypatch):
    scandir = os.scandir

    def forbidden(folder):  # the tests may run as root, who may read everything
        if str(folder).endswith("dog/deep"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(PermissionError, match="dog/deep cannot be read"):
        class_files(root)
