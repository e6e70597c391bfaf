"""torchvision's import: as torchvision itself would have it, and mended only where torchvision says what is missing."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from convit_edu import _torchvision
from convit_edu._torchvision import ensure_importable

OURS = """
from convit_edu._torchvision import ensure_importable
ensure_importable()
ensure_importable()
import timm, torchvision
print(torchvision.extension._has_ops())
"""
# A plain import stays as it is where it works; beside a CPU-only torch it fails, and the next one starts afresh.
PLAIN_FIRST = f"""
try:
    import torchvision
except RuntimeError as error:
    assert "operator torchvision::nms does not exist" in str(error)
{OURS}"""


@pytest.mark.slow
def test_operators_are_there_where_a_plain_import_has_them():
    """In fresh processes: a name that is registered twice would end them."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ours, plain_first = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout
        for code in (OURS, PLAIN_FIRST)
    )
    assert ours == plain_first in ("True\n", "False\n")


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


@pytest.mark.parametrize("failure", [RuntimeError("another CUDA version"), ModuleNotFoundError(name="PIL")])
def test_another_failure_is_told_and_nothing_is_defined(pretend, failure):
    defined = pretend("import given\nraise given.failure", failure=failure)
    with pytest.raises(type(failure)) as found:
        ensure_importable()
    assert found.value is failure and defined == []


def test_nothing_is_defined_where_torchvision_works_or_is_absent(pretend, monkeypatch):
    defined = pretend("")
    ensure_importable()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    ensure_importable()
    assert defined == []
