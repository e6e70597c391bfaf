"""What `make` does before it works: it installs, once, what was tested, and never into somebody else's .venv."""

import os
import shutil
import subprocess
import sys

import pytest
from loading import ROOT

# A Python of any version, which makes an environment of itself and writes down what pip is asked for.
STUB = """#!/bin/sh
case "$1 $2" in
  "-c "*) exec "{python}" -c "import sys; sys.version_info = ({version}, 0); $2" ;;
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip") echo "$@" >> asked ;;
esac
"""


@pytest.fixture
def make(tmp_path):
    """make(version): `make lint` in a folder with the Makefile alone; returns what it did and what pip was asked."""
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def called(version="3, 13"):
        stub = tmp_path / "some python"
        stub.write_text(STUB.format(python=sys.executable, version=version), encoding="utf-8")
        stub.chmod(0o755)
        done = subprocess.run(["make", "lint", f"PYTHON={stub}"], cwd=tmp_path, capture_output=True, text=True)
        asked = tmp_path / "asked"
        return done, asked.read_text(encoding="utf-8").splitlines() if asked.exists() else []

    return called


@pytest.mark.parametrize("version", ["3, 11", "3, 14"])
def test_pins_are_used_and_a_second_call_installs_nothing(make, version):
    done, asked = make(version)
    assert done.returncode == 0, done.stderr
    assert len(asked) == 1 and "-c constraints.txt" in asked[0]
    assert make(version)[1] == asked


def test_an_older_python_is_refused_and_a_later_one_goes_without_pins_and_is_told(make):
    done, asked = make("3, 10")
    assert done.returncode and not asked and "Python 3.11 or newer" in done.stdout
    done, asked = make("3, 15")
    assert done.returncode == 0, done.stderr
    assert "constraints.txt" not in asked[0] and "constraints.txt was tested up to Python" in done.stdout


def test_a_changed_file_installs_again_and_a_date_to_come_only_once(make, tmp_path):
    make()
    later = (tmp_path / ".venv" / ".installed").stat().st_mtime + 100_000
    os.utime(tmp_path / "pyproject.toml", (later, later))
    assert len(make()[1]) == 2
    assert len(make()[1]) == 2


@pytest.mark.parametrize("link", [False, True])
def test_an_environment_that_make_did_not_make_stays(make, tmp_path, link):
    own = tmp_path / ("elsewhere" if link else ".venv")
    (own / "bin").mkdir(parents=True)
    (own / "mine").write_text("work", encoding="utf-8")
    if link:
        (tmp_path / ".venv").symlink_to(own)
    done, asked = make()
    assert done.returncode and not asked
    assert "rm -r .venv" in done.stdout and (tmp_path / ".venv" / "mine").read_text(encoding="utf-8") == "work"


def test_an_environment_of_ours_that_is_broken_is_made_again(make, tmp_path):
    make()
    (tmp_path / ".venv" / "bin" / "python").unlink()
    (tmp_path / ".venv" / "left").write_text("", encoding="utf-8")
    done, asked = make()
    assert done.returncode == 0 and len(asked) == 2 and not (tmp_path / ".venv" / "left").exists()
