"""What publishes the book: the zip, the printing, and the workflow."""

import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "publish.py"


@pytest.fixture(scope="module")
def publish():
    spec = importlib.util.spec_from_file_location("publish", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def site(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"<title>{name}</title>", encoding="utf-8")
    return folder


def test_zip_holds_the_site_and_is_equal_for_equal_pages(publish, tmp_path):
    names = ["index.html", "book/b.html", "book/a.html", "_static/a.css"]
    sizes = [
        publish.pack(site(tmp_path / which, order), tmp_path / f"{which}.zip")
        for which, order in (("one", names), ("two", names[::-1]))
    ]
    one, two = ((tmp_path / f"{which}.zip").read_bytes() for which in ("one", "two"))
    assert one == two and sizes == [len(one)] * 2
    with zipfile.ZipFile(tmp_path / "one.zip") as packed:
        assert packed.namelist() == sorted(f"convit-book/{name}" for name in names)
        assert packed.read("convit-book/book/a.html") == b"<title>book/a.html</title>"
    assert not list(tmp_path.glob("*.partial"))


def test_without_chromium_printing_says_what_to_do(publish, monkeypatch):
    monkeypatch.setattr(publish.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="there is no Chromium to print with: install it"):
        publish.find_chromium()


def test_without_a_book_both_say_so(tmp_path):
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "publish.py"
    script.write_text(SCRIPT.read_text(encoding="utf-8"), encoding="utf-8")
    for form in ("zip", "pdf"):
        done = subprocess.run([sys.executable, script, form], capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.startswith("there is no built book in _build/html: run make book")


def test_workflow_uses_targets_that_exist_and_publishes_only_what_passed():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text(encoding="utf-8"))
    jobs = workflow["jobs"]
    build, publishing = jobs["build"], jobs["publish"]
    commands = [step["run"] for step in build["steps"] if "run" in step]
    targets = [command.removeprefix("make ") for command in commands]
    assert targets == ["lint", "test", "book", "check"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)
    actions = [step["uses"].split("@")[0] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert {"actions/checkout", "actions/setup-python", "actions/upload-pages-artifact", "actions/deploy-pages"} == set(
        actions
    )
    assert publishing["needs"] == "build" and "default_branch" in publishing["if"]
    assert workflow["permissions"] == {"contents": "read"}
    assert set(publishing["permissions"]) == {"contents", "pages", "id-token"}
    assert "CONVIT_EDU_REPOSITORY" in workflow["env"]


def test_ci_checks_the_book_after_it_is_built():
    steps = re.findall(r"^make (\w+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.M)
    assert steps == ["lint", "test", "book", "check"]
