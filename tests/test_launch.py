"""The repository's address: where it is taken from, which buttons it brings, and what the first cell does with it."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from loading import ROOT, module_at
from packaging.requirements import Requirement

pytestmark = pytest.mark.slow

SCRIPT = ROOT / "book" / "_ext" / "launch.py"
GITHUB, GITLAB = "https://github.com/ada/convit", "https://gitlab.com/ada/convit"


@pytest.fixture(scope="module")
def launch():
    return module_at("book/_ext/launch.py")


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch):
    for name in ("REPOSITORY", "BRANCH", "REVISION", "PAGES"):
        monkeypatch.delenv(f"CONVIT_EDU_{name}", raising=False)


def clone(folder: Path, origin: str) -> Path:
    subprocess.run(["git", "init", "-q", folder], check=True)
    subprocess.run(["git", "-C", folder, "remote", "add", "origin", origin], check=True)
    return folder


@pytest.mark.parametrize(("origin", "address"), [
    ("https://github.com/ada/convit.git", GITHUB),
    ("https://github.com/ada/convit/", GITHUB),
    ("https://ada:secret@github.com/ada/convit", GITHUB),
    ("git@github.com:ada/convit.git", GITHUB),
    ("ssh://git@gitlab.com/ada/convit.git", GITLAB),
    ("https://git.example.org/ada/convit", None),
    ("https://github.com.example.org/ada/convit", None),
    ("/srv/git/github.com/ada/convit", None),
])  # fmt: skip
def test_origin_counts_at_github_and_gitlab_only(launch, tmp_path, origin, address):
    assert launch.find_address(clone(tmp_path, origin)) == address


def test_setting_beats_origin_and_environment_beats_both(launch, tmp_path, monkeypatch):
    root = clone(tmp_path, "https://github.com/ada/origin")
    assert launch.find_address(root, GITLAB) == GITLAB
    monkeypatch.setenv("CONVIT_EDU_REPOSITORY", GITHUB + ".git")
    assert launch.find_address(root, GITLAB) == GITHUB


def test_no_repository_no_address(launch, tmp_path):
    inner = clone(tmp_path, GITHUB) / "unpacked"
    inner.mkdir()
    assert launch.find_address(inner) is None  # inside somebody else's repository


def test_a_given_address_that_cannot_be_used_is_an_error(launch, tmp_path):
    with pytest.raises(ValueError, match=r"'https://example.org/a/b': give one like https://github.com/OWNER"):
        launch.find_address(tmp_path, "https://example.org/a/b")


def test_branch(launch, tmp_path, monkeypatch):
    assert launch.find_branch(tmp_path) == "main"
    assert launch.find_branch(tmp_path, "dev") == "dev"
    monkeypatch.setenv("CONVIT_EDU_BRANCH", "launch")
    assert launch.find_branch(tmp_path, "dev") == "launch"


def test_pages_are_published_in_lower_case(launch):
    assert launch.published("https://github.com/Ada/Convit") == "https://ada.github.io/Convit"


def test_revision_is_the_commit_that_readers_can_fetch(launch, tmp_path, monkeypatch):
    assert launch.find_revision(tmp_path) == ""  # no repository
    here, there = clone(tmp_path / "here", str(tmp_path / "there")), tmp_path / "there"
    subprocess.run(["git", "init", "-q", "--bare", there], check=True)
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    subprocess.run(["git", "-C", here, *who, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    assert launch.find_revision(here) == ""  # not pushed
    subprocess.run(["git", "-C", here, "push", "-q", "origin", "HEAD:refs/heads/main"], check=True)
    assert launch.find_revision(here) == launch.git(here, "rev-parse", "HEAD") != ""
    monkeypatch.setenv("CONVIT_EDU_REVISION", "v1.2")
    assert launch.find_revision(here) == "v1.2"
    monkeypatch.setenv("CONVIT_EDU_REVISION", 'v1" onclick=')
    with pytest.raises(ValueError, match="give a commit or a tag"):
        launch.find_revision(here)


# --- the buttons, on a book of one chapter

CONF = """
extensions = ["myst_nb", "launch"]
html_theme, nb_execution_mode = "sphinx_book_theme", "off"
html_title = "A chapter"
exclude_patterns = ["jupyter_execute", "out"]
html_theme_options = {{"repository_url": {address!r}}}
import sys; sys.path.insert(0, {extensions!r})
"""


@pytest.fixture
def build(launch, tmp_path):
    pytest.importorskip("sphinx_book_theme", reason="the theme is not installed: pip install -e '.[book,test]'")
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": 1, "outputs": [],
            "source": launch.FIRST_CELL.splitlines(keepends=True)}  # fmt: skip
    title = {"cell_type": "markdown", "id": "b", "metadata": {}, "source": ["# A chapter\n\nWhat *is* R & C?"]}
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"},
                "language_info": {"name": "python", "pygments_lexer": "ipython3"}}  # fmt: skip
    notebook = {"cells": [title, cell], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}

    def built(address: str) -> tuple[str, str]:
        """The page and the notebook that it offers for download."""
        (tmp_path / "index.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
        (tmp_path / "conf.py").write_text(CONF.format(address=address, extensions=str(SCRIPT.parent)), encoding="utf-8")
        command = [sys.executable, "-m", "sphinx", "-q", "-E", "-W", str(tmp_path), str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
        return page, (tmp_path / "out" / "_sources" / "index.ipynb").read_text(encoding="utf-8")

    return built


BINDER = {GITHUB: "https://mybinder.org/v2/gh/ada/convit/main", GITLAB: "https://mybinder.org/v2/gl/ada%2Fconvit/main"}
COLAB = "https://colab.research.google.com/github/ada/convit/blob/main/index.ipynb"
PICTURE = '<meta property="og:image" content="https://ada.github.io/convit/_static/gate.png">'


@pytest.mark.parametrize("address", [GITHUB, GITLAB])
def test_an_address_brings_buttons_and_a_picture_for_links(build, address):
    page, notebook = build(address)
    assert f"{BINDER[address]}?urlpath=lab/tree/index.ipynb" in page
    assert (COLAB in page) == (PICTURE in page) == (address == GITHUB)  # Colab opens no other host
    assert (ROOT / "book" / "_static" / "gate.png").is_file()
    assert f'REPOSITORY = "{address}"' in "".join(json.loads(notebook)["cells"][1]["source"])


def test_page_and_package_are_tied_and_names_are_quoted(build, monkeypatch):
    for name, value in (("BRANCH", 'a&b"c/#d'), ("REVISION", "v1.2"), ("PAGES", "https://example.org/")):
        monkeypatch.setenv(f"CONVIT_EDU_{name}", value)
    page, notebook = build(GITHUB)
    assert f"{BINDER[GITHUB].removesuffix('main')}a%26b%22c/%23d?urlpath=" in page
    assert COLAB.replace("main", "a%26b%22c/%23d") in page and 'b"c' not in page
    assert '<meta property="og:url" content="https://example.org/index.html">' in page
    assert f'REPOSITORY = "{GITHUB}@v1.2"' in "".join(json.loads(notebook)["cells"][1]["source"])


def test_without_an_address_a_page_says_what_it_is_about_and_has_no_button(build):
    page, notebook = build("")
    assert "<title>A chapter</title>" in page  # not "A chapter — A chapter"
    assert '<meta name="description" content="What is R &amp; C?">' in page
    assert '<meta property="og:title" content="A chapter">' in page and "og:image" not in page
    assert not any(word in page.lower() for word in ("launch-buttons", "mybinder", "colab.research", "thebe"))
    assert 'REPOSITORY = ""' in "".join(json.loads(notebook)["cells"][1]["source"])


# --- the first cell


def run_first_cell(launch, address: str, there: bool) -> list[str]:
    """The commands that the first cell gives to %pip."""
    from IPython.core.interactiveshell import InteractiveShell

    source = launch.FIRST_CELL.replace('REPOSITORY = ""', f'REPOSITORY = "{address}"')
    source = source.replace('"convit_edu"', '"json"' if there else '"no_such_package"')
    shell, commands = InteractiveShell(), []
    shell.register_magic_function(commands.append, magic_name="pip")
    done = shell.run_cell(source)
    if done.error_in_exec:
        raise done.error_in_exec
    return commands


def test_first_cell_is_silent_where_the_package_is(launch, capsys):
    assert run_first_cell(launch, "", there=True) == []
    assert run_first_cell(launch, GITHUB, there=True) == []
    assert capsys.readouterr().out == ""


def test_first_cell_installs_from_the_address(launch):
    for place in (GITHUB, f"{GITHUB}@v1.2"):
        assert run_first_cell(launch, place, there=False) == [f'install -q "convit_edu[chapters] @ git+{place}"']


# What Colab has, on Python 3.13; its page serves these widgets and no others.
COLAB_HAS = {"torch": "2.11.0", "timm": "1.0.28", "ipywidgets": "7.7.1"}


def test_first_cell_replaces_nothing_that_colab_has():
    """pip leaves alone what fits a bound: what the chapters ask for fits what is there."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {(one := Requirement(line)).name: one.specifier for line in
             [*table["dependencies"], *table["optional-dependencies"]["chapters"]]}  # fmt: skip
    assert all(asked[name].contains(version) for name, version in COLAB_HAS.items()), asked


def test_first_cell_without_an_address_says_what_to_do(launch):
    with pytest.raises(ModuleNotFoundError, match="write it between the quotes of REPOSITORY"):
        run_first_cell(launch, "", there=False)


def test_the_address_can_be_written_into_notebooks_again_and_again(launch, tmp_path):
    path = tmp_path / "chapter.ipynb"
    path.write_text(json.dumps({"cells": [{"source": launch.FIRST_CELL.splitlines(keepends=True)}]}), encoding="utf-8")
    for address, revision in ((GITLAB, ""), (GITHUB, "v1.2"), (GITHUB, "0123abc"), (GITHUB, "")):
        command = [sys.executable, SCRIPT, "--address", address + ".git", "--revision", revision, path]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        source, place = json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"], address
        place += f"@{revision}" * bool(revision)
        assert "".join(source) == launch.FIRST_CELL.replace('REPOSITORY = ""', f'REPOSITORY = "{place}"')


@pytest.mark.parametrize(("options", "said"), [
    (["--address", "nowhere"], "'nowhere' is no repository at github.com or gitlab.com"),
    (["--address", GITHUB, "--revision", "a b"], "'a b' is no commit and no tag"),
])  # fmt: skip
def test_the_program_refuses_what_cannot_be_used(tmp_path, options, said):
    done = subprocess.run([sys.executable, SCRIPT, *options, tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and said in done.stderr
