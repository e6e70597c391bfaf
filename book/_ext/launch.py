"""Read it anywhere: the address of the book's repository, and what follows from it for the pages.

As a Sphinx extension it puts Binder and Colab buttons on every chapter when an address is known, and none
otherwise; writes the address into the notebooks that readers download; tells other sites what a page is about;
and takes out of the pages what would reach for the network. As a program it writes the address into the notebooks
themselves:

    python book/_ext/launch.py --address https://github.com/OWNER/REPOSITORY [--revision TAG] book/*.ipynb

The address is, in this order: the environment variable CONVIT_EDU_REPOSITORY, `repository: {url: ...}` in
_config.yml, git's origin. Colab opens the branch in CONVIT_EDU_BRANCH, else in `repository: {branch: ...}`, else
git's default one. The first cell installs the revision that the page was built from, so that page and package agree:
CONVIT_EDU_REVISION, else git's commit where a branch of the origin has it.
"""

import argparse
import html
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

ADDRESS = re.compile(
    r"(?:https?://(?:[^/@]+@)?|git@|ssh://git@)(github\.com|gitlab\.com)[:/]([\w.-]+)/([\w.-]+?)(?:\.git)?/?"
)
REVISION = re.compile(r"[\w.+/-]+")  # a commit or a tag
THEBE = re.compile(r'<script type="text/x-thebe-config">.*?</script>\s*<script>kernelName = .*?</script>', re.S)
PAGES_OF = {"https://github.com": "github.io", "https://gitlab.com": "gitlab.io"}
LONGEST = 300  # characters of a page's description
PICTURE = "One head, one query patch: attention by position, by content, and their mixtures at two values of the gate"
# Fills the place where a chapter is first run: silent where the package is there, as in a clone.
FIRST_CELL = """\
from importlib.util import find_spec

# Only where convit_edu is missing, as in Colab: install it from the repository that this chapter comes from.
REPOSITORY = ""
if find_spec("convit_edu") is None:
    if not REPOSITORY:
        raise ModuleNotFoundError(
            "convit_edu is not installed, and this copy does not know the address of the book's repository: "
            "write it between the quotes of REPOSITORY in this cell, then run the cell again."
        )
    %pip install -q "convit_edu[chapters] @ git+{REPOSITORY}"
"""


def normal(address: str) -> str | None:
    """https://host/owner/repository, or None if it is no repository at github.com or gitlab.com."""
    match = ADDRESS.fullmatch(address.strip())
    return f"https://{match[1]}/{match[2]}/{match[3]}" if match else None


def git(root: Path, *arguments: str) -> str:
    """What git says about the repository that begins at `root`; nothing if there is no git or no repository."""
    if not (root / ".git").exists():  # a folder inside somebody else's repository has no address
        return ""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def find_address(root: Path, setting: str = "") -> str | None:
    """The repository's address. One that was given and cannot be used is an error; an origin elsewhere is not."""
    given = os.environ.get("CONVIT_EDU_REPOSITORY") or setting
    if given and not normal(given):
        raise ValueError(
            f"the repository's address is {given!r}: give one like https://github.com/OWNER/REPOSITORY "
            "or https://gitlab.com/OWNER/REPOSITORY, in CONVIT_EDU_REPOSITORY or as repository: url in _config.yml"
        )
    return normal(given or git(root, "config", "--get", "remote.origin.url"))


def find_branch(root: Path, setting: str = "") -> str:
    default = git(root, "symbolic-ref", "--short", "refs/remotes/origin/HEAD").removeprefix("origin/")
    return os.environ.get("CONVIT_EDU_BRANCH") or setting or default or "main"


def find_revision(root: Path) -> str:
    """The commit or tag that readers can install to have what this page describes; nothing if none is known."""
    given = os.environ.get("CONVIT_EDU_REVISION", "")
    if given and not REVISION.fullmatch(given):
        raise ValueError(f"CONVIT_EDU_REVISION is {given!r}: give a commit or a tag")
    if given or not git(root, "branch", "--remotes", "--contains", "HEAD"):  # nobody can fetch what was never pushed
        return given
    return git(root, "rev-parse", "HEAD")


def fill(notebook: str, address: str, revision: str = "") -> str:
    """The text of an .ipynb file with the address, as pip takes it, in its first cell, whatever stood there."""
    place = f"{address}@{revision}" if revision else address
    return re.sub(r'REPOSITORY = \\"[^"\\]*\\"', lambda _: rf'REPOSITORY = \"{place}\"', notebook)


# --- the Sphinx extension


def configure(app, config) -> None:
    """Launch buttons with an address, none without."""
    from sphinx.errors import ConfigError

    options = config.html_theme_options
    try:
        address = find_address(Path(app.srcdir), options.get("repository_url") or "")
        config.convit_edu_revision = find_revision(Path(app.srcdir)) if address else ""
    except ValueError as error:
        raise ConfigError(str(error)) from None
    config.convit_edu_repository = address or ""
    if address:
        buttons = {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"}
        if "//github.com/" in address:  # Colab opens notebooks from nowhere else
            buttons["colab_url"] = "https://colab.research.google.com"
        branch = find_branch(Path(app.srcdir), options.get("repository_branch") or "")
        # The theme writes the name of the branch into links as it stands.
        options.update(repository_url=address, repository_branch=quote(branch), launch_buttons=buttons)


def published(address: str) -> str:
    """Where GitHub's or GitLab's Pages serve the book of this repository; CONVIT_EDU_PAGES says another place."""
    given = os.environ.get("CONVIT_EDU_PAGES", "")
    host, owner, name = address.rsplit("/", 2) if address else ("", "", "")
    return given.rstrip("/") or (f"https://{owner.lower()}.{PAGES_OF[host]}/{name}" if address else "")


def introduce(app, pagename: str, templatename: str, context: dict[str, Any], doctree) -> None:
    """What others show of a page: its first paragraph and, where the site has a place, a picture."""
    title = re.sub(r"<[^>]+>", "", context.get("title") or "")
    if doctree is None:
        return
    from docutils import nodes

    first = next(iter(doctree.findall(nodes.paragraph)), None)
    words = " ".join(first.astext().split()) if first else app.config.html_title
    said = words if len(words) <= LONGEST else words[:LONGEST].rsplit(" ", 1)[0] + " …"
    meta = {"og:type": "article", "og:title": html.unescape(title), "og:description": said,
            "og:site_name": app.config.html_title}  # fmt: skip
    place = published(app.config.convit_edu_repository)
    if place:
        meta |= {"og:url": f"{place}/{pagename}.html", "og:image": f"{place}/_static/gate.png",
                 "og:image:alt": PICTURE}  # fmt: skip
    tags = [f'<meta name="description" content="{html.escape(said)}">']
    tags += [f'<meta property="{name}" content="{html.escape(value)}">' for name, value in meta.items()]
    context["metatags"] = context.get("metatags", "") + "\n".join(tags) + "\n"


def tidy(app, pagename: str, templatename: str, context: dict[str, Any], doctree) -> None:
    """Take out thebe (it would come from a CDN, and no button here starts it) and scripts that stand twice."""
    unique = {(str(file), file.attributes.get("body")): file for file in context["script_files"]}
    context["script_files"] = [file for key, file in unique.items() if "thebe" not in str(key).lower()]
    context["css_files"] = [file for file in context["css_files"] if "thebe" not in str(file)]
    # The entries of the bibliography are no ARIA list: between them stand targets of links, which a list may not hold.
    if "body" in context:
        body = THEBE.sub("", context["body"])
        body = body.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
        context["body"] = body.replace(' role="doc-biblioentry"', "")


def fill_downloads(app, exception) -> None:
    address, revision = app.config.convit_edu_repository, app.config.convit_edu_revision
    for path in Path(app.outdir, "_sources").rglob("*.ipynb") if address and not exception else ():
        path.write_text(fill(path.read_text(encoding="utf-8"), address, revision), encoding="utf-8")


def say_the_title_once(app, exception) -> None:
    """The first page would be called "ConViT, understood — ConViT, understood"."""
    path = Path(app.outdir, f"{app.config.root_doc}.html")
    if not exception and path.is_file():
        page = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"<title>(.*?) &#8212; \1</title>", r"<title>\1</title>", page), encoding="utf-8")


def setup(app) -> dict[str, bool]:
    app.add_config_value("convit_edu_repository", "", "html")
    app.add_config_value("convit_edu_revision", "", "html")
    app.connect("config-inited", configure)
    app.connect("html-page-context", introduce)
    app.connect("html-page-context", tidy, priority=900)  # after the extensions that add scripts
    app.connect("build-finished", fill_downloads)
    app.connect("build-finished", say_the_title_once)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


# --- the program


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the repository's address into the first cell of notebooks.")
    parser.add_argument("--address", required=True, help="like https://github.com/OWNER/REPOSITORY")
    parser.add_argument("--revision", default="", help="the commit or tag to install; without, the default branch")
    parser.add_argument("notebooks", nargs="+", type=Path)
    given = parser.parse_args()
    address = normal(given.address)
    if not address:
        sys.exit(f"{given.address!r} is no repository at github.com or gitlab.com: give https://github.com/OWNER/REPOSITORY")
    if given.revision and not REVISION.fullmatch(given.revision):
        sys.exit(f"{given.revision!r} is no commit and no tag")
    for path in given.notebooks:
        path.write_text(fill(path.read_text(encoding="utf-8"), address, given.revision), encoding="utf-8")


if __name__ == "__main__":
    main()
