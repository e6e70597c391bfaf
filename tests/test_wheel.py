"""With only the wheel installed and no repository beside it, the chapters run.

`make test` runs the first page so, which reads of every kind of file, `make wheel-test` every chapter.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import nbformat
import pytest
from loading import ROOT
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

ALL = sorted((ROOT / "book").glob("*.ipynb"))
QUICK = [path for path in ALL if path.stem == "intro"]
CHAPTERS = ALL if os.environ.get("CONVIT_EDU_ALL_CHAPTERS") else QUICK

# Appended to each chapter: the package it used is the wheel's.
FROM_WHEEL = "import pathlib, convit_edu\nassert pathlib.Path(convit_edu.__file__).parents[1].samefile({place!r})"


def pip(*arguments) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing is left in the repository, and without asking an index for anything."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info", ".lock", "unfinished")
    shutil.copytree(ROOT / "convit_edu", source / "convit_edu", ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", place, source)
    (found,) = place.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip("install", "-q", "--no-deps", "--no-index", "--target", target, wheel)
    return target


def test_the_wheel_holds_every_file_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if name.startswith("convit_edu/")}
    parts = ["*.py", "py.typed", "datasets/*", "static/*"]
    parts += [f"recorded/**/*.{kind}" for kind in ("json", "safetensors", "md")]
    files = [path for part in parts for path in (ROOT / "convit_edu").rglob(part)]
    expected = {path.relative_to(ROOT).as_posix() for path in files if path.is_file()}
    assert len(expected) > 30
    assert names == {name for name in expected if "__pycache__" not in name}


def test_the_source_archive_holds_what_a_clone_holds(tmp_path):
    """So its tests can be collected and run, and its book built."""
    source, made = tmp_path / "source", tmp_path / "made"
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("there is no git repository to make an archive of")
    names = {name for name in filter(None, listed.stdout.split("\0")) if (ROOT / name).is_file()}
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    made.mkdir()
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(made)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (archive,) = made.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        assert names - {member.name.partition("/")[2] for member in packed} == {".gitattributes", ".gitignore"}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_runs_with_only_the_wheel(installed, path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(installed))
    notebook = nbformat.read(path, 4)
    notebook.cells.append(nbformat.v4.new_code_cell(FROM_WHEEL.format(place=str(installed))))
    resources = {"metadata": {"path": str(tmp_path)}}  # where the kernel stands: an empty folder
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
