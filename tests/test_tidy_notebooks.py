"""Tidy notebooks: fewer bytes where nobody sees it, the same bytes where somebody would, printed lines in one piece."""

import base64
import io
import json
import runpy

import numpy as np
import pytest
from lint_notebooks import ROOT
from PIL import Image

SCRIPT = runpy.run_path(str(ROOT / "scripts" / "tidy_notebooks.py"))
lighter, main = SCRIPT["lighter"], SCRIPT["main"]


def png(pixels):
    written = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(written, "PNG")
    return written.getvalue()


@pytest.fixture(scope="module")
def chart():
    """A heat map of 49 patches beside soft edges, white elsewhere."""
    random = np.random.default_rng(0)
    pixels = np.full((210, 300, 3), 255)
    pixels[:, :210] = random.integers(0, 256, size=(7, 7, 3)).repeat(30, 0).repeat(30, 1)
    pixels[20:22, 220:290] = random.integers(0, 256, size=(2, 70, 3))
    return pixels


def test_a_chart_gets_lighter_and_its_patches_keep_their_colours(chart):
    before = png(chart)
    after = lighter(before)
    assert len(after) < len(before)
    found = np.asarray(Image.open(io.BytesIO(after)).convert("RGB"), dtype=int)
    assert np.abs(found[:, :210] - chart[:, :210]).max() <= SCRIPT["SLIGHT"]
    assert lighter(after) == after  # a second time changes nothing


def test_a_photograph_stays_as_it_is():
    before = png(np.random.default_rng(0).integers(0, 256, size=(100, 100, 3)))
    assert lighter(before) == before


def test_what_lies_behind_stays_visible(chart):
    alpha = np.full((*chart.shape[:2], 1), 100)
    before = png(np.concatenate((chart, alpha), axis=2))
    assert lighter(before) == before


def test_nothing_but_the_pictures_of_a_notebook_changes(tmp_path, chart):
    picture = base64.b64encode(png(chart)).decode()
    output = {"data": {"image/png": picture, "text/plain": ["<Figure>"]}, "output_type": "display_data"}
    notebook = {"cells": [{"source": "x", "outputs": [output]}, {"source": "y"}], "metadata": {}}
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    main([str(path)])
    found = json.loads(path.read_text(encoding="utf-8"))
    data = found["cells"][0]["outputs"][0]["data"]
    assert len(data["image/png"]) < len(picture)
    data["image/png"] = picture
    assert found == notebook


def test_printed_lines_are_joined_and_nothing_else():
    def stream(name, *text):
        return {"output_type": "stream", "name": name, "text": list(text)}

    picture = {"output_type": "display_data", "data": {}}
    rest = [stream("stderr", "d"), picture, stream("stdout", "e")]
    cut = [stream("stdout", "a\n", "b"), stream("stdout", " c\n"), *rest]
    whole = [stream("stdout", "a\n", "b c\n"), *rest]
    assert SCRIPT["joined"](cut) == whole and SCRIPT["joined"](whole) == whole
