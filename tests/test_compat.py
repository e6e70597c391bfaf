"""The script behind `make compat`, and the limits that the installation knows."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from loading import ROOT, module_at
from packaging.requirements import Requirement

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compat():
    return module_at("scripts/compat.py")


def stub(folder: Path, name: str, says: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{says}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_every_python_that_makes_environments_is_found_once_oldest_first(compat, tmp_path):
    places = [
        stub(tmp_path, "a/python3", "echo /usr/bin/python3 3 13 0"),
        stub(tmp_path, "b/python3.13", "echo /elsewhere 3 13 0"),
        stub(tmp_path, "c/python3.9", "echo /old 3 9 1"),
        stub(tmp_path, "d/python3", "echo /with a space/python3 3 11 2"),
        stub(tmp_path, "e/python3", "exit 1"),  # no venv module
        stub(tmp_path, "f/python3-config", "echo /no 3 12 0"),
        stub(tmp_path, "shims/python3", "echo /shim 3 12 0"),
    ]
    found = compat.pythons(places)
    assert found == {"3.11.2": "/with a space/python3", "3.13.0": "/usr/bin/python3"}
    assert compat.rows(found) == [
        "3.11.2-pinned", "3.11.2-newest", "3.13.0-pinned", "3.13.0-newest", "3.11.2-lowest",
    ]  # fmt: skip
    assert compat.rows({}) == []


def test_lowest_versions_are_the_bounds(compat, tmp_path):
    project = tmp_path / "pyproject.toml"
    project.write_text("""[project]
name = "own"
dependencies = ["torch>=2.5"]
[project.optional-dependencies]
chapters = ["timm>=1.0.22"]
book = ["own[chapters]", "jupyter-book>=1.0.4.post1,<2", "exact==0.0.2"]
test = ["own[chapters]", "pytest>=8.2"]
""", encoding="utf-8")  # fmt: skip
    assert set(compat.lowest(project)) == {
        "torch==2.5", "timm==1.0.22", "jupyter-book==1.0.4.post1", "exact==0.0.2", "pytest==8.2",
    }  # fmt: skip
    project.write_text(project.read_text(encoding="utf-8").replace("pytest>=8.2", "pytest"), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"give a lower bound, .* for pytest"):
        compat.lowest(project)
    assert "torch==2.5" in compat.lowest(ROOT / "pyproject.toml")


def test_a_row_is_installed_tested_kept_and_not_repeated(compat, tmp_path, monkeypatch):
    """Without an index: the environment is this one, and the repository has two small tests."""
    repository = tmp_path / "repository"
    for name, text in {
        "pyproject.toml": "", "constraints.txt": "", "tests/test_a.py": "def test_a(): pass\ndef test_b(): assert 0",
        "book/02-a.ipynb": '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
        "book/03-b.ipynb": "not one of the chapters",
    }.items():  # fmt: skip
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(text, encoding="utf-8")
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "one"]):
        subprocess.run(["git", *arguments], cwd=repository, check=True)
    monkeypatch.setattr(compat, "ROOT", repository)
    monkeypatch.setattr(compat, "install", lambda folder, python, kind: {"torch": "2.5.0"})
    monkeypatch.setattr(compat, "inside", lambda venv: sys.executable)
    monkeypatch.setattr(compat, "pythons", lambda: {"3.11.2": "nowhere"})
    monkeypatch.setattr(sys, "argv", ["compat.py", "3.11-pinned", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="1 of 1 rows failed"):
        compat.main()
    stored = tmp_path / "out" / "3.11.2-pinned" / "result.json"
    result = json.loads(stored.read_text(encoding="utf-8"))
    assert result["tests"] == "1 failed, 1 passed: tests/test_a.py::test_b"
    assert not compat.passed(result | {"chapters": "9 passed"})
    assert "no tests ran" in (stored.parent / "chapters.log").read_text(encoding="utf-8")
    stored.write_text(json.dumps(result | {"tests": "2 passed", "chapters": "9 passed"}), encoding="utf-8")
    compat.main()  # nothing is repeated: what is stored counts
    subprocess.run(["git", *who, "commit", "-qm", "two", "--allow-empty"], cwd=repository, check=True)
    monkeypatch.setattr(compat, "run", lambda *row: result)
    with pytest.raises(SystemExit, match="1 of 1 rows failed"):
        compat.main()  # another commit: done again


def test_a_failed_installation_is_a_row_of_the_table(compat, tmp_path, monkeypatch):
    def fails(*arguments):
        raise compat.Stopped("ERROR: No matching distribution | torch")

    monkeypatch.setattr(compat, "command", fails)
    result = compat.run("3.11.2-newest", "nowhere", tmp_path, "0" * 40)
    assert not compat.passed(result) and "No matching distribution / torch" in compat.table([result])


def test_an_unknown_row_is_named(compat, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compat.py", "2.7-newest"])
    with pytest.raises(SystemExit, match=r"there is no row 2\.7-newest; there are 3\."):
        compat.main()


# --- the files


def requirements(extra: str) -> list[Requirement]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = table["optional-dependencies"]
    asked = map(Requirement, [*table["dependencies"], *extras["chapters"], *extras[extra]])
    return [one for one in asked if one.name != "convit_edu"]


PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("full", ["3.11.2", "3.14.0"])
@pytest.mark.parametrize("extra", ["book", "test"])
def test_each_requirement_has_one_pin_that_fits_its_bound(full, extra):
    where = {"python_version": full.rpartition(".")[0], "python_full_version": full}
    pins = [pin for pin in PINS if pin.marker is None or pin.marker.evaluate(where)]
    names = [normal(pin.name) for pin in pins]
    assert len(names) == len(set(names))
    by_name = dict(zip(names, pins))
    for one in requirements(extra):
        (version,) = by_name[normal(one.name)].specifier
        assert one.specifier.contains(version.version), f"{one} and {by_name[normal(one.name)]}"


def test_what_torch_loads_is_weights_alone():
    """Before torch 2.6 that is no default: a call that does not say so warns, and unpickles whatever it finds."""
    folders = (ROOT / name for name in ("convit_edu", "tests", "scripts", "benchmarks"))
    texts = (path.read_text(encoding="utf-8") for folder in folders for path in folder.rglob("*.py"))
    calls = [call for text in texts for call in re.findall(r"torch\.load\(.*", text)]
    assert len(calls) > 5 and all("weights_only=True" in call for call in calls), calls


def test_conda_and_binder_install_the_pins():
    assert "-c constraints.txt" in (ROOT / "environment.yml").read_text(encoding="utf-8")
    lines = (ROOT / ".binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (pins,) = [line.removeprefix("-c ") for line in lines if line.startswith("-c ")]
    assert (ROOT / ".binder" / pins).resolve() == ROOT / "constraints.txt"


def test_what_kernels_inherit(tmp_path):
    """A font cache: on a fresh account matplotlib builds it, and may say so on stderr, in a kernel an output.
    And a worker's share of the cores."""
    code = "import os, runpy; runpy.run_path('conftest.py'); print(os.environ.get('OMP_NUM_THREADS'))"
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "PYTEST_XDIST"))}
    for workers, threads in ({}, "None"), ({"PYTEST_XDIST_WORKER_COUNT": "10000"}, "1"):
        environment = alone | workers | {"MPLCONFIGDIR": str(tmp_path)}
        said = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=environment, text=True)
        assert said == f"{threads}\n"
    assert list(tmp_path.glob("fontlist*.json"))
