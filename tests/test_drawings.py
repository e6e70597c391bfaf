"""The drawings of the book: each is used and described, takes its colours from the page, and can be read on a phone."""

import json
import re
import runpy
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest
from docutils import nodes
from lint_notebooks import NOTEBOOKS, ROOT, text

FOLDER = ROOT / "book" / "_static" / "drawings"
DRAWINGS = sorted(FOLDER.glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"
ACCENTS = {"var(--drawing-position, #00785a)", "var(--drawing-content, #a8407f)"}
PATCHES = {"#f4f4f2", "#55585c"}  # a bright and a dark patch of a picture look so in every theme
COLOURS = {"currentColor", "none", *ACCENTS, *PATCHES}


@pytest.fixture(params=DRAWINGS, ids=lambda path: path.stem)
def drawing(request):
    return request.param, ET.parse(request.param).getroot()


def test_it_has_a_title_and_a_description_of_its_own(drawing):
    path, root = drawing
    named = [root.find(f"{SVG}{tag}") for tag in ("title", "desc")]
    assert all(node is not None and node.text.strip() for node in named)
    ids = [node.get("id") for node in named]
    assert root.get("aria-labelledby").split() == ids
    assert all(identity.startswith(f"{path.stem}-") for identity in ids)  # two drawings may stand in one page
    assert [node.get("id") for node in root.iter() if node.get("id")] == ids


def test_its_colours_are_the_pages(drawing):
    _, root = drawing
    (ground,) = [node for node in root.iter() if node.get("class") == "ground"]  # taken away in the page
    assert ground.get("fill") == "#fff"
    used = {node.get(name) for node in root.iter() if node is not ground for name in ("fill", "stroke")}
    assert used - {None} <= COLOURS


def test_it_can_be_read_on_a_phone(drawing):
    """A phone of 390 px shows a drawing 350 px wide: its letters are then at least 10 px high."""
    _, root = drawing
    wide = float(root.get("viewBox").split()[2])
    sizes = [float(node.get("font-size")) for node in root.iter(f"{SVG}text")]
    assert min(sizes, default=wide) * 350 / wide >= 10


def test_drawings_and_pages_name_each_other():
    """Every drawing stands in a page, and every drawing that a page names is there."""
    cells = [cell for path in NOTEBOOKS for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    named = re.findall(r"_static/drawings/([\w-]+\.svg)", "\n".join(text(cell["source"]) for cell in cells))
    assert set(named) == {path.name for path in DRAWINGS} and len(DRAWINGS) >= 6


def test_small_drawings_are_small():
    small = [path for path in DRAWINGS if path.stem.startswith("small-")]
    assert small and max(path.stat().st_size for path in small) < 15_000


def page(image, builder="html"):
    """What the extension makes of it."""
    inline = runpy.run_path(str(ROOT / "book" / "_ext" / "drawings.py"))["inline"]
    document = nodes.section("", image)
    inline(SimpleNamespace(builder=SimpleNamespace(format=builder), srcdir=str(ROOT)), document, "page")
    return document[0]


def test_the_page_has_the_drawing_itself():
    inside = page(nodes.image(uri="book/_static/drawings/gate.svg"))
    assert isinstance(inside, nodes.raw) and inside["format"] == "html"
    assert "<svg" in inside.astext() and 'class="drawing"' in inside.astext()
    line = page(nodes.paragraph("", "", nodes.image(uri="book/_static/drawings/small-race.svg")))  # in a table
    assert line[0].astext().startswith('<span class="drawing">')


@pytest.mark.parametrize(
    ("uri", "builder"), [("book/_static/gate.png", "html"), ("book/_static/drawings/gate.svg", "latex")]
)
def test_other_pictures_and_other_formats_are_left_alone(uri, builder):
    assert isinstance(page(nodes.image(uri=uri), builder), nodes.image)
