"""Figures are judged by eye; here only that they can be drawn, and hold what they should."""

import base64
import io
import json
import re

import numpy as np
import pytest
from lint_notebooks import NOTEBOOKS
from PIL import Image

from convit_edu.book import plots


@pytest.fixture(autouse=True)
def closed():
    yield
    plots.plt.close("all")


def test_maps_whose_last_row_is_not_full_have_a_colour_bar():
    figure = plots.maps([np.eye(3)] * 5, list("abcde"), columns=3, query=(1, 1))
    assert [axis.get_title() for axis in figure.axes[:5]] == list("abcde")
    assert len(figure.axes) == 6 and figure.axes[5].get_ylabel() == "attention"
    figure.canvas.draw()  # lays out, which is where a removed axis would fail


def test_differences_without_an_interval_are_drawn_too():
    figure = plots.forest({"one seed": {"10 %": (2.0, float("nan"))}, "five": {"10 %": (1.0, 0.5)}}, "points")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["one seed", "five"]
    figure.canvas.draw()


def test_a_table_of_colours_has_a_bar_only_with_a_label():
    drawn = [plots.numbers([[1, 2]], ["r"], ["a", "b"], [["1", "2"]], "", "", label) for label in ("", "accuracy (%)")]
    assert [len(figure.axes) for figure in drawn] == [1, 2]


# --- how a notebook stores them


def line(size=(5, 3)):
    return plots.curves({"ConViT": (range(5), [0.1, 0.0002, 3, 4, 5])}, "optimiser steps", "accuracy", size=size)


def heat():
    return plots.maps([np.eye(3)] * 2, ["a", "b"])


def test_the_same_figure_gives_the_same_svg_and_no_date_or_version():
    first, second = plots.as_svg(line()), plots.as_svg(line())
    assert first == second and "<metadata" not in first and "<!--" not in first
    assert re.search(r"<text[^>]*>optimiser steps</text>", first)  # letters, not outlines
    assert not re.search(r"=\"[^\"]*\d\.\d{3}", first)


def test_figures_of_marks_are_svg_and_heat_maps_png_at_twice_the_density():
    assert plots.as_png(line()) is None and plots.as_svg(heat()) is None
    content, size = plots.as_png(heat())
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert abs(picture.width - 2 * size["width"]) <= 1 and abs(picture.height - 2 * size["height"]) <= 1
    assert round(picture.info["dpi"][0]) == 200
    many = plots.curves({"a": (range(9), np.ones((1000, 9)))}, "x", "y")
    assert plots.as_svg(many) is None and plots.as_png(many)


@pytest.mark.slow
def test_a_kernel_stores_both(tmp_path):
    """In a kernel of its own, with whatever matplotlib-inline has set up before or after."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    code = [
        "import matplotlib.pyplot as plt\nfrom convit_edu.book import plots\n"
        "plots.curves({'a': ([0, 1], [0, 1])}, 'x', 'y')\nplt.show()",
        "plt.subplots()[1].plot([0, 1])\nplt.show()",
        "plots.maps([plots.np.eye(2)], ['a'])\nplt.show()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in code])
    nbclient.NotebookClient(notebook, kernel_name="python3").execute()
    kinds = [
        {kind for out in cell.outputs for kind in out.get("data", {}) if kind.startswith("image/")}
        for cell in notebook.cells
    ]
    assert kinds == [{"image/svg+xml"}, {"image/svg+xml"}, {"image/png"}]


LEGIBLE, COLUMN = 8, 350  # pixels: the smallest letters, and the width of a picture on a phone 390 pixels wide


def smallest_letters(svg: str) -> float:
    """In pixels on a phone; units are points."""
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    words = re.sub(r"<tspan.*?</tspan>", "", svg, flags=re.S)  # exponents may be smaller
    return min(map(float, re.findall(r"font(?:-size)?: (?:\w+ )*([\d.]+)px", words))) * min(96 / 72, COLUMN / width)


@pytest.mark.parametrize("size", [(5, 3.2), (9, 3)])
def test_letters_of_a_figure_are_legible_on_a_phone(size):
    assert smallest_letters(plots.as_svg(line(size))) >= LEGIBLE


STORED = [
    pytest.param("".join(out["data"]["image/svg+xml"]), id=f"{path.stem[:2]}-{cell['id']}")
    for path in NOTEBOOKS for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
    for out in cell.get("outputs", []) if "image/svg+xml" in out.get("data", {})
]  # fmt: skip


@pytest.mark.parametrize("svg", STORED)
def test_letters_of_a_stored_figure_are_legible_on_a_phone(svg):
    assert smallest_letters(svg) >= LEGIBLE
