"""torchvision's import: as torchvision itself would have it, and mended only where torchvision says what is missing."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from convit_edu import _torchvision
from convit_edu._torchvision import ensure_importable

# After the remedy: whether torchvision has its operators; timm imports.
OURS = """
from convit_edu._torchvision import ensure_importable
ensure_importable()
ensure_importable()
import timm, torchvision
print(torchvision.extension._has_ops())
"""
# The same after a plain import, which stays as it is where it works.
PLAIN_FIRST = f"""
import sys
try:
    import torchvision as before
    print(before.extension._has_ops())
except RuntimeError as error:  # beside a CPU-only torch; the next import starts afresh
    assert "operator torchvision::nms does not exist" in str(error)
    before = None
    print(False)
{OURS}
assert before in (None, torchvision)
"""


@pytest.mark.slow
def test_operators_are_there_where_a_plain_import_has_them():
    """In fresh processes: a name that is registered twice would end them."""
    plain_first, ours = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                       env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
        for code in (PLAIN_FIRST, OURS)
    )  # fmt: skip
    assert ours.returncode == plain_first.returncode == 0, ours.stderr + plain_first.stderr
    assert plain_first.stdout == 2 * ours.stdout and ours.stdout in ("True\n", "False\n")


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """pretend(code of a torchvision of one file), which is what is imported now; returns what is defined from here on.

    The code finds that list, and what else it is to have, in the module `given`.
    """
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    defined = []
    library = SimpleNamespace(Library=lambda *arguments: SimpleNamespace(define=defined.append))
    torch = SimpleNamespace(library=library, ops=SimpleNamespace(torchvision=SimpleNamespace()))
    monkeypatch.setattr(_torchvision, "torch", torch)
    monkeypatch.setattr(_torchvision, "_library", None)
    monkeypatch.syspath_prepend(tmp_path)

    def written(code, **given):
        monkeypatch.setitem(sys.modules, "given", SimpleNamespace(defined=defined, **given))
        (tmp_path / "torchvision").mkdir(exist_ok=True)
        (tmp_path / "torchvision" / "__init__.py").write_text(code, encoding="utf-8")
        (tmp_path / "torchvision" / "extension.py").write_text("count = 0", encoding="utf-8")
        return defined

    yield written
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # before the real ones come back


def test_nothing_is_defined_where_the_import_succeeds(pretend):
    """Whatever its extension is called; a second definition would end the interpreter when the real one comes."""
    defined = pretend("")
    ensure_importable()
    assert defined == []


def test_names_are_defined_once_where_torchvision_asks_for_them(pretend):
    defined = pretend("""
import given
from . import extension
extension.count += 1
if not given.defined:
    raise RuntimeError("operator torchvision::nms does not exist")
assert extension.count == 1, "what the first import left behind is still there"
""")
    ensure_importable()
    ensure_importable()
    assert [schema.partition("(")[0] for schema in defined] == ["nms", "qnms"]


@pytest.mark.parametrize("failure", [RuntimeError("another CUDA version"), ImportError("_C"),
                                     ModuleNotFoundError(name="PIL")])  # fmt: skip
def test_another_failure_is_told_and_nothing_is_defined(pretend, failure):
    defined = pretend("import given\nraise given.failure", failure=failure)
    with pytest.raises(type(failure)) as found:
        ensure_importable()
    assert found.value is failure and defined == []


def test_without_torchvision_nothing_happens(pretend, monkeypatch):
    defined = pretend("")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    ensure_importable()
    assert defined == []
