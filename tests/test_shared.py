"""The site's share of what explorers need alike: one file for all pages, each page pointing to it."""

import re

import pytest
from loading import module_at

from convit_edu.book import explorers, networks


@pytest.fixture(scope="module")
def shared():
    return module_at("book/_ext/shared.py")


@pytest.fixture(scope="module")
def outputs():
    return {form: explorers.network_explorer(form)._repr_html_() for form in ("whole", "small")}


def test_pages_point_to_the_same_files(shared, outputs, tmp_path):
    pages = {form: shared.shared(f"<p>a</p>{html}<p>b</p>", tmp_path, "../_static") for form, html in outputs.items()}
    files = re.compile(r'<script src="\.\./_static/(explorer-\w+-\w{8}\.js)"')
    found = {form: files.findall(page) for form, page in pages.items()}
    assert [name.split("-")[1] for name in found["whole"]] == ["convit", "deit", "pictures"]
    assert found["small"] == [found["whole"][0], found["whole"][2]]
    assert all(len(page) < 80_000 and page.endswith("<p>b</p>") for page in pages.values())
    for name, text in explorers.network_explorer("whole").shared.items():
        (file,) = tmp_path.glob(f"explorer-{name}-*.js")
        assert file.read_text(encoding="utf-8") == text


def test_the_moments_are_a_file_that_the_page_names(shared, outputs, tmp_path):
    page = shared.shared(outputs["whole"], tmp_path, "_static")
    (name,) = re.findall(r'data-moments="_static/(explorer-moments-\w{8}\.js)"', page)
    assert (tmp_path / name).read_text(encoding="utf-8") == networks.script("moments", networks.moments())
    assert shared.MOMENTS not in page and not list(tmp_path.glob("*.tmp"))


def test_other_networks_get_other_files_and_other_pages_stay(shared, outputs, tmp_path):
    other = outputs["small"].replace('"embed_dim":54', '"embed_dim":53')
    for html in (outputs["small"], other):
        shared.shared(html, tmp_path, "_static")
    assert len(list(tmp_path.glob("explorer-convit-*.js"))) == 2
    assert shared.shared("<p>no explorer</p>", tmp_path, "_static") == "<p>no explorer</p>"
