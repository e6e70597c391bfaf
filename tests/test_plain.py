"""Plain notebooks: each piece of Sphinx syntax has a plain form or is refused, and written numbers are true."""

import base64

import pytest
from loading import ROOT, module_at

plain = module_at("book/_ext/plain.py")

NUMBERS = {"fig-a": "4.1", "eq-a": "4.2", "ex-a": "4.3"}
BOOK = plain.Book(NUMBERS, {"fig-a": "book/04", "patch": "book/glossary"}, folder=ROOT / "book")
SITE = plain.Book(NUMBERS, BOOK.pages, "https://example.org/b")

PAIRS = {
    "box": (":::{admonition} Before\n:class: note\nYou need it.\n:::", "> **Before**\n>\n> You need it."),
    "beside": (":::{admonition} Note\n:class: margin\nAside.\n:::", "> Aside."),
    "answer": (":::{dropdown} Answer\nTwo.\n:::", "<details><summary>Answer</summary>\n\nTwo.\n\n</details>"),
    "inside": ("::::{admonition} A\n:::{dropdown} B\nx\n:::\n::::",
               "> **A**\n>\n> <details><summary>B</summary>\n>\n> x\n>\n> </details>"),
    "exercise": (":::{exercise} Mix\n:label: ex-a\nDo it.\n:::", "**Exercise 4.3: Mix**\n\nDo it."),
    "back-ticks": ("```{exercise} Mix\n:label: ex-a\nDo it.\n```", "**Exercise 4.3: Mix**\n\nDo it."),
    "solution": (":::{solution-start} ex-a\n:class: dropdown\n:::",
                 "**Solution of exercise 4.3** (its code is folded)"),
    "end": (":::{solution-end}\n:::", ""),
    "equation": ("$$\na = b.\n$$ (eq-a)\n\nSo.", "$$\na = b. \\tag{4.2}\n$$\n\nSo."),
    "figure": ("See [Fig. 4.1](#fig-a).", "See Fig. 4.1."),
    "citation": ("It is [[He et al., 2016]](#he2016).", "It is [He et al., 2016]."),
    "term": ("a [patch](#patch) and [two words](<#two words>)", "a patch and two words"),
    "code": ("```python\nx = {1}\n```", "```python\nx = {1}\n```"),
    "page": ("[chapter 02](02-self.ipynb#top)", "[chapter 02](02-self.ipynb#top)"),
}  # fmt: skip


@pytest.mark.parametrize("source, wanted", PAIRS.values(), ids=PAIRS)
def test_its_plain_form(source, wanted):
    assert plain.plain_text(source, BOOK) == wanted


def test_links_lead_to_the_published_book_where_it_is_known():
    found = plain.plain_text("a [patch](#patch), [x](02-self.ipynb#top), [Fig. 4.1](#fig-a)", SITE)
    assert found == "a [patch]({0}/glossary.html), [x]({0}/02-self.html#top), Fig. 4.1".format(SITE.site + "/book")


@pytest.mark.parametrize("source, named", [
    (":::{list-table}\n:::", "list-table"), ("a {term}`patch`", "{term}"), (":::{dropdown} A\nopen", "does not end"),
    (":::{figure} none.svg\n:alt: x\n:::", "none.svg"),
    (":::{exercise} A\n:label: ex-other\n:::", "ex-other"), ("$$\na\n$$ (eq-other)", "eq-other"),
])  # fmt: skip
def test_what_has_no_plain_form_is_refused(source, named):
    with pytest.raises(plain.NotPlain, match=named):
        plain.plain_text(source, BOOK)


def test_a_drawing_comes_along():
    source = ":::{figure} _static/drawings/gate.svg\n:name: fig-a\n:alt: A curve.\n\nIt rises.\n:::"
    picture, _, number, words = plain.plain_text(source, BOOK).split("\n")
    drawing = ROOT / "book" / "_static" / "drawings" / "gate.svg"
    assert base64.b64decode(picture.removeprefix("![A curve.](data:image/svg+xml;base64,")[:-1]) == drawing.read_bytes()
    assert (number, words) == ("**Fig. 4.1.**", "It rises.")


def test_a_figure_is_followed_by_its_number_and_caption():
    figure = {"figure": {"name": "fig-a", "caption": "Where [heads](#head) look."}}
    code = {"cell_type": "code", "id": "one", "metadata": {"mystnb": figure}, "source": [], "outputs": []}
    empty = {"cell_type": "markdown", "id": "two", "metadata": {}, "source": [":::{solution-end}\n", ":::"]}
    found = plain.plain_notebook({"cells": [code, empty], "nbformat": 4}, BOOK)["cells"]
    assert [cell["cell_type"] for cell in found] == ["code", "markdown"]
    assert "".join(found[1]["source"]) == "**Fig. 4.1.** Where heads look."


def test_a_wrong_number_is_found_and_written_right():
    source = "[Fig. 4.7](#fig-a), [(4.2)](#eq-a), [exercise 9.9](#ex-a), [Fig. 1](#unknown), [a figure](#fig-a)"
    right, wrong = plain.with_numbers(source, NUMBERS)
    assert right == "[Fig. 4.1](#fig-a), [(4.2)](#eq-a), [exercise 4.3](#ex-a), [Fig. 1](#unknown), [a figure](#fig-a)"
    assert len(wrong) == 2 and "4.7" in wrong[0] and "9.9" in wrong[1]


def test_a_picture_in_a_table_comes_along():
    row = plain.plain_text("| ![A race](_static/drawings/small-race.svg) | [06](06-training.ipynb) |", BOOK)
    assert row.startswith("| ![A race](data:image/svg+xml;base64,")
