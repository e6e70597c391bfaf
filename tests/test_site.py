"""The built book needs nothing but itself: every page and style sheet of _build/html is parsed.

`make check` runs this after `make book`. A page may link to other sites; it may load nothing from them.
"""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytestmark = pytest.mark.slow

SITE = Path(__file__).resolve().parents[1] / "_build" / "html"
MAX_ADDED = 1_000_000  # bytes a page adds to the theme and MathJax: its HTML and its pictures

# What a browser fetches by itself. A link that only says where something is (rel="next") loads nothing.
LOADS = {
    "script": ["src"], "img": ["src", "srcset"], "source": ["src", "srcset"], "iframe": ["src"], "embed": ["src"],
    "object": ["data"], "video": ["src", "poster"], "audio": ["src"], "track": ["src"], "input": ["src"],
    "image": ["href", "xlink:href"], "use": ["href", "xlink:href"], "link": ["href"], "base": ["href"],
}  # fmt: skip
QUIET = {"next", "prev", "index", "search", "author", "license", "canonical", "help", "copyright"}
IN_STYLE = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")
REMOTE = re.compile(r"(?:https?|wss?|ftp):|//")
IN_SCRIPT = re.compile(r"(?:https?|wss?)://(?!www\.w3\.org/)[\w.-]+")  # names of XML namespaces are no addresses


def in_style(style: str) -> list[str]:
    return [first or second for first, second in IN_STYLE.findall(style)]


class Page(HTMLParser):
    """What a page loads, where it links to, and the targets it offers."""

    def __init__(self, text: str):
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.targets: set[str] = set()
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = {name: value or "" for name, value in attrs}
        self._inside = tag if tag in ("script", "style") else ""
        if tag != "link" or not set(values.get("rel", "").split()) <= QUIET:
            for name in LOADS.get(tag, []):
                place = values.get(name, "")
                self.loads += [part.split()[0] for part in place.split(",")] if name == "srcset" and place else [place]
        self.loads += in_style(values.get("style", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "meta" and values.get("http-equiv", "").lower() == "refresh":
            self.links.append(values["content"].partition("url=")[2])
        self.targets |= {values[name] for name in ("id", "name") if name in values}

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "style":
            self.loads += in_style(data)
        elif self._inside == "script":
            self.scripts.append(data)

    def local(self) -> list[str]:
        return [place for place in self.loads if place and not REMOTE.match(place) and not place.startswith("data:")]


def foreign(page: Page) -> list[str]:
    """What the page would fetch from elsewhere."""
    loads = [f"loads {place}" for place in page.loads if REMOTE.match(place)]
    return loads + [f"a script names {address}" for script in page.scripts for address in IN_SCRIPT.findall(script)]


# --- the site

PAGES = sorted(path for path in SITE.rglob("*.html") if "_static" not in path.relative_to(SITE).parts)
STYLES = sorted(SITE.rglob("*.css"))
built = pytest.mark.skipif(not PAGES, reason="there is no built book: run make book first")


@pytest.fixture(scope="module")
def pages() -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in PAGES}


def name(path: Path) -> str:
    return path.relative_to(SITE).as_posix()


@built
@pytest.mark.parametrize("path", PAGES, ids=name)
def test_a_page_loads_little_and_nothing_from_elsewhere_and_all_that_it_names_is_there(pages, path):
    assert foreign(pages[path]) == []
    files = {(path.parent / unquote(urlsplit(place).path)).resolve() for place in pages[path].local()}
    missing = [file for file in files if not file.is_file()]
    for link in pages[path].links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        page = pages.get(target)
        if not target.is_file() or (page and parts.fragment and unquote(parts.fragment) not in page.targets):
            missing.append(link)
    assert missing == []
    own = [file for file in files if SITE / "_static" not in file.parents and file.suffix != ".js"]  # not the theme's
    assert path.stat().st_size + sum(file.stat().st_size for file in own) < MAX_ADDED


@built
def test_style_sheets_load_nothing_from_elsewhere():
    places = [(path, place) for path in STYLES for place in in_style(path.read_text(encoding="utf-8"))]
    assert places
    assert [(name(path), place) for path, place in places if REMOTE.match(place)] == []
    fonts = [(path, place) for path, place in places if "/webfonts/" in place]
    assert fonts
    assert all((path.parent / urlsplit(place).path).is_file() for path, place in fonts)


@built
def test_every_chapter_and_the_search_are_there(pages):
    names = {name(path) for path in pages}
    chapters = {f"book/{path.stem}.html" for path in (SITE.parents[1] / "book").glob("*.ipynb")}
    assert {"index.html", "search.html", *chapters} <= names


# --- the rule itself: a page that keeps to itself passes, one that does not fails

GOOD = """<link rel="next" href="https://a.org"><a href="https://a.org">a</a><img src="a.png"><script src="a.js">
</script><script>const NS = "http://www.w3.org/2000/svg"</script>
<style>p { background: url(data:image/png;base64,aGk=) }</style>"""

BAD = [
    "<script src='https://cdn.org/a.js'></script>",
    "<link rel='stylesheet' href='https://cdn.org/a.css'>",
    "<link rel='next preload' href='http://cdn.org/a.html'>",
    "<img src='https://cdn.org/a.png'>",
    "<img src='a.png' srcset='a.png 1x, https://cdn.org/a.png 2x'>",
    "<p style='background: url(https://cdn.org/a.png)'>a</p>",
    "<style>@import 'https://cdn.org/a.css';</style>",
    "<style>@font-face { src: url( \"//cdn.org/a.woff2\" ) }</style>",
    "<svg><image xlink:href='https://cdn.org/a.png'/></svg>",
    "<iframe src='https://cdn.org'></iframe>",
    "<script>require.config({paths: {a: 'https://cdn.org/a'}})</script>",
    "<script type='module'>import a from \"https://cdn.org/a.js\"</script>",
]


def test_a_page_that_keeps_to_itself_passes():
    assert foreign(Page(GOOD)) == []


@pytest.mark.parametrize("text", BAD)
def test_a_page_that_loads_from_elsewhere_fails(text):
    assert len(foreign(Page(text))) == 1


NOTEBOOKS = sorted((SITE / "_sources").rglob("*.ipynb"))
SYNTAX = re.compile(r"\{[\w:+-]+\}`|^(?:`{3,}\{|:{3,})|^:[\w-]+:|\]\(<?#|^\$\$ *\([\w-]+\)", re.M)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_downloaded_notebook_is_plain(path):
    """What the download button and Colab give holds no Sphinx syntax, and every solution is folded."""
    after_solution, seen = False, []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            seen += SYNTAX.findall(re.sub(r"^```\w+$.*?^```$", "", text, flags=re.M | re.S))
            after_solution = "**Solution of exercise" in text
        elif after_solution:
            assert cell["metadata"]["jupyter"]["source_hidden"] and cell["metadata"]["cellView"] == "form", text
    assert not seen
