"""Does it run on that Python? A fresh clone and environment for each row, its tests, and a table: `make compat`.

    python scripts/compat.py                      # every row
    python scripts/compat.py --list               # their names
    python scripts/compat.py 3.12.1-newest        # one row

There is a row for every Python from 3.11 that is found (on the PATH, pyenv's, the system's), with the versions that
constraints.txt pins and with the newest that pip finds, and one for the lowest versions that pyproject.toml allows.
A row installs a clone of HEAD, runs the unit tests, and compares five chapters with their stored outputs (with the
lowest versions, which draw other random weights, it runs them and their assertions alone). What a row
found is kept in --out and not repeated until HEAD is another commit; an environment that was installed is used again
while the versions asked for are the same. With CUDA it takes 6 GB, and is removed when its row has passed.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 11)
EXTRAS = "book,test"
CHAPTERS = ["02", "04", "05", "08", "13"]
KINDS = ["pinned", "newest"]
SHOWN = ["torch", "torchvision", "timm", "numpy", "pillow", "matplotlib", "ipywidgets"]
ABOUT = "import sys, ensurepip, venv; print(sys.executable, *sys.version_info[:3])"
# What pip may not decide by itself; what this process was told about pytest, Python's path and MPL stays here.
CLEARED = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTEST_ADDOPTS", "PIP_CONSTRAINT", "MPLBACKEND"}


def pythons(candidates: Iterable[Path] | None = None) -> dict[str, str]:
    """{version, such as 3.11.2: its interpreter} of every Python that can make an environment, oldest first."""
    if candidates is None:
        folders = [Path(place) for place in os.environ.get("PATH", "").split(os.pathsep)] + [Path("/usr/bin")]
        folders += sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/*/bin"))
        candidates = [path for folder in folders for path in sorted(folder.glob("python3*"))]
    found = {}
    for path in candidates:
        if not re.fullmatch(r"python3(\.\d+)?", path.name) or "shims" in path.parts:
            continue
        try:
            done = subprocess.run([path, "-c", ABOUT], capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode:
            continue
        interpreter, *version = done.stdout.rsplit(maxsplit=3)
        if tuple(map(int, version)) >= OLDEST:
            found.setdefault(tuple(map(int, version)), interpreter)
    return {".".join(map(str, version)): found[version] for version in sorted(found)}


def lowest(project: Path) -> list[str]:
    """The requirements of a pyproject.toml, each at its lower bound; what has an exact version keeps it."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    asked = [*table["dependencies"], *(one for extra in EXTRAS.split(",") for one in expand(table, extra))]
    bounds = [re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(?:>=|==)([\w.]+)(?:,.*)?", one) for one in asked]
    missing = [one for one, bound in zip(asked, bounds) if bound is None]
    if missing:
        sys.exit(f"pyproject.toml: give a lower bound, as in name>=1.0, for {', '.join(missing)}")
    return sorted(f"{bound[1]}=={bound[2]}" for bound in bounds)


def expand(table: dict, extra: str) -> list[str]:
    """The requirements of an extra, with those of the extras that it names."""
    own = re.compile(rf"{re.escape(table['name'])}\[([\w,]+)\]")
    parts = table["optional-dependencies"][extra]
    inner = [name for part in parts if (m := own.fullmatch(part)) for name in m[1].split(",")]
    return [part for part in parts if not own.fullmatch(part)] + [one for name in inner for one in expand(table, name)]


def rows(found: dict[str, str]) -> list[str]:
    names = [f"{version}-{kind}" for version in found for kind in KINDS]
    return [*names, *(f"{version}-lowest" for version in list(found)[:1])]


# --- one row


class Stopped(Exception):
    """A step of a row that failed: what is said in the table."""


def command(log: Path, *arguments, cwd: Path | None = None, **environment: str) -> str:
    """Run it with its output in `log`; returns the output, or raises Stopped with its last line."""
    kept = {name: value for name, value in os.environ.items() if name not in CLEARED}
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run([*map(str, arguments)], cwd=cwd, env=kept | environment, stdout=file,
                              stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)  # fmt: skip
    said = log.read_text(encoding="utf-8", errors="replace")
    if done.returncode:
        lines = [line for line in said.splitlines() if line.strip()]
        raise Stopped(next((line for line in lines if line.startswith(("ERROR", "error"))), lines[-1] if lines else ""))
    return said


def tested(log: Path, *arguments, cwd: Path) -> str:
    """pytest's closing line, such as `812 passed`; with the first test that failed, if one did."""
    failed = ""
    try:
        command(log, *arguments, cwd=cwd, OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"))
    except Stopped as stopped:
        failed = str(stopped)
    said = log.read_text(encoding="utf-8", errors="replace")
    closing = re.findall(r"^=*\s*(\d+ (?:passed|failed|error|skipped|deselected)[^=\n]*?) in [\d.:]+s", said, re.M)
    named = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.M)
    return ": ".join([*closing[-1:], *named[:1]]) if closing else f"pytest did not end: {failed}"


def inside(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install(folder: Path, python: str, kind: str) -> dict[str, str]:
    """An environment in `folder`, the clone installed into it; returns the versions of what matters most."""
    clone, venv = folder / "clone", folder / "venv"
    executable = inside(venv)
    limits = {"pinned": (clone / "constraints.txt").read_text(encoding="utf-8"), "newest": ""}.get(kind)
    if limits is None:
        limits = "\n".join(lowest(clone / "pyproject.toml"))
    (folder / "limits.txt").write_text(limits, encoding="utf-8")
    asked = (clone / "pyproject.toml").read_bytes() + limits.encode()
    digest, mark = hashlib.sha256(asked).hexdigest(), venv / ".asked"
    if not mark.is_file() or mark.read_text() != digest:
        shutil.rmtree(venv, ignore_errors=True)
        command(folder / "venv.log", python, "-m", "venv", venv)
        asks = ["-c", folder / "limits.txt", "-e", f"{clone}[{EXTRAS}]"]
        command(folder / "install.log", executable, "-m", "pip", "install", *asks)
        mark.write_text(digest)
    names = "import importlib.metadata as m, sys; print(*[n + '==' + m.version(n) for n in sys.argv[1:]])"
    return dict(one.split("==") for one in command(folder / "versions.log", executable, "-c", names, *SHOWN).split())


def run(name: str, python: str, out: Path, commit: str) -> dict:
    """Do one row, and store what it found, whole or not at all."""
    folder, began = out / name, time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    clone, venv = folder / "clone", folder / "venv"
    found = {"row": name, "commit": commit, "versions": {}, "installed": "yes", "tests": "", "chapters": ""}
    try:
        shutil.rmtree(clone, ignore_errors=True)
        command(folder / "clone.log", "git", "clone", "--quiet", "--no-hardlinks", ROOT, clone)
        command(folder / "clone.log", "git", "-C", clone, "checkout", "--quiet", commit)
        found["versions"] = install(folder, python, name.rpartition("-")[2])
        pytest = [inside(venv), "-m", "pytest", "-q", "--maxfail=20"]
        chapters = [path for number in CHAPTERS for path in sorted(clone.glob(f"book/{number}-*.ipynb"))]
        notebooks = "--nbval-lax" if name.endswith("lowest") else "--nbval"  # before torch 2.13 weights are others
        found["chapters"] = tested(folder / "chapters.log", *pytest, notebooks, *chapters, cwd=clone)
        ignored = ["--ignore=tests/browser", "--ignore=tests/test_site.py"]  # they need a built book
        found["tests"] = tested(folder / "tests.log", *pytest, *ignored, "tests", cwd=clone)
    except Stopped as stopped:
        found["installed"] = f"no: {stopped}"
    found["seconds"] = round(time.monotonic() - began)
    partial = folder / "result.partial"
    partial.write_text(json.dumps(found, indent=1), encoding="utf-8")
    partial.replace(folder / "result.json")
    if passed(found):
        shutil.rmtree(venv, ignore_errors=True)
        shutil.rmtree(clone, ignore_errors=True)
    return found


def passed(found: dict) -> bool:
    return all("passed" in found[part] and not re.search("failed|error", found[part]) for part in ("tests", "chapters"))


def stored(out: Path, name: str) -> dict | None:
    path = out / name / "result.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def table(results: list[dict]) -> str:
    lines = ["| row | commit | versions | unit tests | chapters | minutes |", "|---|---|---|---|---|---|"]
    for one in results:
        versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items()) or one["installed"]
        cells = [one["row"], one["commit"][:7], versions, one["tests"], one["chapters"], f"{one['seconds'] / 60:.0f}"]
        lines.append("| " + " | ".join(cell.replace("|", "/") or "-" for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="such as 3.12.1-newest; all without any")
    parser.add_argument("--list", action="store_true", help="say which rows there are")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "compat", help="where rows are kept")
    given = parser.parse_args()
    found = pythons()
    if not found:
        sys.exit("no Python 3.11 or newer with its venv module was found on the PATH, in pyenv or in /usr/bin")
    known = rows(found)
    # 3.12-newest means the newest 3.12 that is there.
    short = {re.sub(r"^(\d+\.\d+)\.\d+", r"\1", name): name for name in known}
    wanted = [short.get(name, name) for name in given.rows] or known
    if given.list:
        print("\n".join(f"{name:16} {found[name.rpartition('-')[0]]}" for name in known))
        return
    unknown = [name for name in wanted if name not in known]
    if unknown:
        sys.exit(f"there is no row {', '.join(unknown)}; there are {', '.join(known)}")
    out = given.out.expanduser().resolve()
    done = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{ROOT} is no git repository with a commit, and each row tests a clone: {done.stderr.strip()}")
    commit, results = done.stdout.strip(), []
    for number, name in enumerate(wanted, 1):
        result = stored(out, name)
        if result is None or result["commit"] != commit:
            print(f"[{number}/{len(wanted)}] {name} ...", flush=True)
            result = run(name, found[name.rpartition("-")[0]], out, commit)
        results.append(result)
    print(table(results))
    failed = [result["row"] for result in results if not passed(result)]
    if failed:
        sys.exit(f"{len(failed)} of {len(results)} rows failed; what they printed lies in {out}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped: finished rows are kept, and the same command goes on after them")
