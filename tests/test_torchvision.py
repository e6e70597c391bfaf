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
def defined(monkeypatch):
    """What is defined from here on, as if nothing had been before."""
    found = []
    library = SimpleNamespace(Library=lambda *arguments: SimpleNamespace(define=found.append))
    torch = SimpleNamespace(library=library, ops=SimpleNamespace(torchvision=SimpleNamespace()))
    monkeypatch.setattr(_torchvision, "torch", torch)
    monkeypatch.setattr(_torchvision, "_library", None)
    return found


def test_names_are_defined_once_where_torchvision_asks_for_them(defined, monkeypatch):
    def ask():
        if not defined:
            raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(_torchvision, "_import_afresh", ask)
    ensure_importable()
    ensure_importable()
    assert [schema.partition("(")[0] for schema in defined] == ["nms", "qnms"]


@pytest.mark.parametrize("failure", [RuntimeError("another CUDA version"), ModuleNotFoundError(name="PIL")])
def test_another_failure_is_told_and_nothing_is_defined(defined, monkeypatch, failure):
    def fail():
        raise failure

    monkeypatch.setattr(_torchvision, "_import_afresh", fail)
    with pytest.raises(type(failure)) as found:
        ensure_importable()
    assert found.value is failure and defined == []


def test_nothing_is_defined_where_torchvision_works_or_is_absent(defined, monkeypatch):
    for module in (SimpleNamespace(), None):
        monkeypatch.setitem(sys.modules, "torchvision", module)
        ensure_importable()
    assert defined == []


def test_what_a_failed_import_left_behind_is_forgotten(monkeypatch):
    modules = {"torchvision.left": 1, "torch": 2}
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace())  # what is imported then
    monkeypatch.setattr(_torchvision, "sys", SimpleNamespace(modules=modules))
    _torchvision._import_afresh()
    assert modules == {"torch": 2}
