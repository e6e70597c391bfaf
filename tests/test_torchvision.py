"""torchvision's import: as torchvision itself would have it, and mended only where torchvision says what is missing."""

import os
import subprocess
import sys

import pytest

# Whether a plain import works, and whether torchvision then has its operators.
PLAIN = "import torchvision; print(torchvision.extension._has_ops())"
# After the remedy: has the same operators, and timm imports.
OURS = """
from convit_edu._torchvision import ensure_importable
ensure_importable()
ensure_importable()
import timm, torchvision
print(torchvision.extension._has_ops())
"""

# A torchvision that behaves as the real one does in one respect, and counts what is defined.
COUNTED = """
import torch
defined = []

class Library:
    def __init__(self, *arguments):
        self.define = defined.append

torch.library.Library = Library
from convit_edu._torchvision import ensure_importable
"""


def new_python(code, *first):
    """Run in a fresh interpreter, which looks for modules in the folders `first` before all others."""
    path = os.pathsep.join(filter(None, [*map(str, first), *sys.path]))
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})


def test_operators_are_there_where_a_plain_import_has_them():
    plain, ours = new_python(PLAIN), new_python(OURS)
    assert ours.returncode == 0, ours.stderr
    if plain.returncode:  # beside a CPU-only torch
        assert "operator torchvision::nms does not exist" in plain.stderr
    assert ours.stdout == (plain.stdout or "False\n")


def test_torchvision_imported_before_stays_as_it_is():
    done = new_python(f"""
try:
    {PLAIN.partition(";")[0]}
    before = torchvision
except RuntimeError as error:  # the next import starts afresh
    assert "nms does not exist" in str(error)
    before = None
{OURS}
assert before in (None, torchvision)
""")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def pretend(tmp_path):
    """pretend(what the package does when it is imported): a torchvision of one file, in a folder to look into first."""

    def written(code):
        (tmp_path / "torchvision").mkdir()
        (tmp_path / "torchvision" / "__init__.py").write_text(code, encoding="utf-8")
        return tmp_path

    return written


def test_nothing_is_defined_where_the_import_succeeds(pretend):
    """Whatever its extension is called; a second definition would end the interpreter when the real one comes."""
    done = new_python(COUNTED + "ensure_importable(); print(defined)", pretend(""))
    assert done.stdout == "[]\n", done.stderr


def test_names_are_defined_once_where_torchvision_asks_for_them(pretend):
    folder = pretend("""
import __main__
from . import extension
extension.count += 1
if not __main__.defined:
    raise RuntimeError("operator torchvision::nms does not exist")
assert extension.count == 1, "what the first import left behind is still there"
""")
    (folder / "torchvision" / "extension.py").write_text("count = 0", encoding="utf-8")
    code = "ensure_importable(); ensure_importable(); print([schema.split('(')[0] for schema in defined])"
    assert (done := new_python(COUNTED + code, folder)).stdout == "['nms', 'qnms']\n", done.stderr


def test_another_failure_is_told_and_nothing_is_defined(pretend):
    code = """
for failure in RuntimeError("another CUDA version"), ImportError("_C"), ModuleNotFoundError(name="PIL"):
    try:
        ensure_importable()
    except Exception as error:
        print(error is failure, defined)
"""
    done = new_python(COUNTED + code, pretend("import __main__\nraise __main__.failure"))
    assert done.stdout == "True []\n" * 3, done.stderr


def test_without_torchvision_nothing_happens():
    code = "import sys; sys.modules['torchvision'] = None; ensure_importable(); print(defined)"
    assert (done := new_python(COUNTED + code)).stdout == "[]\n", done.stderr
