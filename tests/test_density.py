"""A dense PNG stands in the page as large as it says, and nothing else gets a width."""

import runpy
from types import SimpleNamespace

import pytest
from docutils import nodes
from lint_notebooks import ROOT
from PIL import Image

give_widths = runpy.run_path(str(ROOT / "book" / "_ext" / "density.py"))["give_widths"]


@pytest.mark.parametrize(("options", "width"), [({"dpi": (200, 200)}, "480px"), ({}, None)])
def test_a_picture_gets_the_width_of_its_density(tmp_path, options, width):
    Image.new("RGB", (1000, 300)).save(tmp_path / "a.png", **options)
    assert shown(tmp_path, "a.png").get("width") == width


@pytest.mark.parametrize("name", ["none.png", "a.svg"])
def test_other_pictures_are_left_alone(tmp_path, name):
    assert "width" not in shown(tmp_path, name)


def test_a_width_that_is_asked_for_stays(tmp_path):
    Image.new("RGB", (1000, 300)).save(tmp_path / "a.png", dpi=(200, 200))
    assert shown(tmp_path, "a.png", width="90px")["width"] == "90px"


def shown(folder, name, **options):
    document = nodes.section("", nodes.image(uri=name, **options))
    give_widths(SimpleNamespace(builder=SimpleNamespace(format="html"), srcdir=str(folder)), document, "page")
    return document[0]
