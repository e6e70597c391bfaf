"""The page of the package: what stands on it follows from the package, and any docstring can be read as text."""

import re
import types

import pytest
from loading import module_at

import convit_edu


@pytest.fixture(scope="module")
def api():
    return module_at("book/_ext/api.py")


def test_everything_public_is_described_once(api):
    listed = re.findall(r"^\.\. auto(?:class|function):: (\S+)$", api.markdown(), re.M)
    assert len(listed) == len(set(listed))
    names = {name.rpartition(".")[2] for name in listed}
    things = {name: getattr(convit_edu, name) for name in convit_edu.__all__}
    assert {name for name, thing in things.items() if callable(thing)} <= names
    rooms = {name.rpartition(".")[0] for name in listed}
    assert {"convit_edu.attention", "convit_edu.beyond.recast", "convit_edu.lab.records"} <= rooms
    assert not [name for name in listed if "._" in name]


def test_a_module_lists_what_it_defines_and_explains(api):
    module = types.ModuleType("a")
    exec('''
from pathlib import Path
def told(): "Yes."
def untold(): pass
def _private(): "No."
class Told: "Yes."
number = 1
''', vars(module))
    assert api.members(module) == ["told", "Told"]
    module.__all__ = ["Told"]
    assert api.members(module) == ["Told"]


@pytest.mark.parametrize(("line", "told"), [
    ("Give `x * y` to *args or **kwargs.", r"Give ``x * y`` to \*args or \*\*kwargs."),
    ("|a| and blocks_ and pos_embed, C:\\x", r"\|a\| and blocks\_ and pos_embed, C:\\x"),
    ("``code`` stays", "``code`` stays"),
])  # fmt: skip
def test_docstrings_are_plain_text_with_code(api, line, told):
    lines = [line]
    api.as_restructured_text(None, "function", "f", None, None, lines)
    assert lines == [told]
