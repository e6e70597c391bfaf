"""The rules for notebooks: a good notebook passes them all, a bad one fails the rule that it was made for."""

import json

import lint_notebooks as lint
import pytest


def code(source="x = 1", *outs, count=1, tag=None, alt=None):
    metadata = {"tags": [tag] * bool(tag), "mystnb": {"image": {"alt": alt}}}
    metadata |= {"jupyter": {"source_hidden": True}, "cellView": "form"} if tag == "remove-cell" else {}
    return dict(cell_type="code", source=source, execution_count=count, outputs=list(outs), metadata=metadata)


def markdown(source):
    return {"cell_type": "markdown", "source": source, "metadata": {}}


def printed(string, name="stdout"):
    return {"output_type": "stream", "name": name, "text": [string]}


def shown(mime, data):
    return {"output_type": "display_data", "data": {mime: data}}


def notebook(*cells, kernel="python3"):
    return {"cells": cells, "metadata": {"kernelspec": {"name": kernel}}}


CHECK = min(lint.CHECKS, default="check_nothing")
EXERCISE = markdown(":::{exercise} Lower the gate\n:label: ex-gate\n\nLower it.\n:::")
SOLUTION = markdown(":::{solution} ex-gate\n:class: dropdown\n\nSo.\n:::")
ERROR = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": ["ValueError: no"]}
PICTURE = shown("image/png", "aGk=")
IGNORED = code("x", printed("1"), tag=lint.IGNORE)

INSTALL = code(lint.FIRST_CELL, tag="remove-cell")

GOOD = notebook(
    INSTALL,
    markdown("# A title\n\n![a drawing](figures/a.png), from https://example.org/home/"),
    markdown(":::{image} b.png\n:width: 9\n:alt: A drawing.\n:::\n\nA [head](#head), [Fig. 1](#fig-a)."),
    code("plt.show()", PICTURE, count=2, alt="A line that rises."),
    code("gate(-1)", ERROR, count=3, tag=lint.RAISES),
    EXERCISE,
    code(f"{CHECK}(1)", printed("Right: 100 % of 3/4."), count=4),
    SOLUTION,
    code("", count=None),
)

BAD = [
    (lint.first_cell_installs, "first code cell", [code("import torch"), INSTALL]),
    (lint.first_cell_installs, "first code cell", [code(lint.FIRST_CELL)]),
    (lint.first_cell_installs, "first code cell", [code(lint.FIRST_CELL, printed("installed"), tag="remove-cell")]),
    (lint.executed_in_order, "not run", [code(count=None)]),
    (lint.executed_in_order, "counts [2, 1]", [code(count=2), code(count=1)]),
    (lint.known_tags, "naval-ignore-output", [code(tag="naval-ignore-output")]),
    (lint.known_tags, "NBVAL_SKIP", [code("# NBVAL_SKIP\nx = 1")]),
    (lint.no_stderr, "cell 0: stderr", [code("warn()", printed("a warning", name="stderr"))]),
    (lint.no_surprising_error, "ValueError", [code("fail()", ERROR)]),
    (lint.no_local_path, "/home/", [code("print(p)", printed("saved to /home/ada/x.png"))]),
    (lint.no_local_path, "~/", [code("load('~/data')")]),
    (lint.no_local_path, "/tmp/", [markdown("Look into `/tmp/x`.")]),
    (lint.images_have_alt, "cell 0: an image", [code("plt.show()", PICTURE)]),
    (lint.images_have_alt, "cell 0: an image", [markdown("![](a.png)")]),
    (lint.images_have_alt, "cell 0: an image", [markdown("```{figure} a.png\n:name: fig-a\n\nCaption\n```")]),
    (lint.no_remote_image, "network", [markdown("![a cat](https://example.org/cat.png)")]),
    (lint.no_remote_image, "network", [code("show()", shown("text/html", "<img alt='a' src='http://x.org/a'>"))]),
    (lint.no_final_semicolon, "semicolon", [code("plt.plot(x);\n")]),
    (lint.exercises_are_complete, "ex-gate: no solution", [EXERCISE, code(f"{CHECK}(1)")]),
    (lint.exercises_are_complete, "ex-gate: names no check", [EXERCISE, SOLUTION, code("check_nothing(1)")]),
    (lint.ignored_outputs_are_few, "2 of 2", [IGNORED, IGNORED]),
    (lint.ignored_outputs_are_asserted, "cell 0: ignored", [IGNORED]),
    (lint.ignored_outputs_are_asserted, "cell 0: ignored", [IGNORED, code("print(x)")]),
    (lint.ignored_outputs_are_asserted, "cell 0: ignored", [IGNORED, code("assert x", tag=lint.IGNORE)]),
    (lint.plain_kernel, "my-env", []),
    (lint.small_file, "bytes, over", [markdown("x" * lint.MAX_BYTES)]),
    *((lint.reads_without_sphinx, "for Sphinx alone", [markdown(source)]) for source in (
        "a {term}`head`", "```{tip}\nx\n```", ":::{margin}\nx\n:::")),
    (lint.drawing_and_solutions_are_folded, "cell 0: fold", [code("plt.plot(x)", tag="hide-input")]),
    (lint.drawing_and_solutions_are_folded, "cell 1: fold", [markdown(":::{solution-start} ex-gate\n:::"), code()]),
    (lint.no_progress_bar, "progress", [code("train()", printed(" 40%|####      | 4/10"))]),
]


@pytest.mark.parametrize("rule", lint.RULES, ids=lambda rule: rule.__name__)
def test_a_good_notebook_passes(rule):
    assert rule(GOOD) == []


@pytest.mark.parametrize(("rule", "message", "cells"), BAD, ids=lambda value: getattr(value, "__name__", ""))
def test_a_bad_notebook_fails(rule, message, cells):
    kernel = "my-env" if rule is lint.plain_kernel else "python3"
    assert message in "\n".join(rule(notebook(*cells, kernel=kernel)))


def test_every_rule_has_a_notebook_that_fails_it():
    assert {rule for rule, _, _ in BAD} == set(lint.RULES)


def test_a_page_that_is_not_listed_and_one_that_is_not_there_are_named(tmp_path, monkeypatch):
    (tmp_path / "book").mkdir()
    for name in ("a.md", "b.md"):
        (tmp_path / "book" / name).write_text("", encoding="utf-8")
    contents = "root: book/a\nparts: [{chapters: [{file: book/c}, {file: book/a}]}]"
    (tmp_path / "_toc.yml").write_text(contents, encoding="utf-8")
    monkeypatch.setattr(lint, "ROOT", tmp_path)
    monkeypatch.setattr(lint, "NOTEBOOKS", [])
    assert lint.contents_list_every_page_once() == [
        "_toc.yml: book/c is listed and not there", "_toc.yml: book/b is there and not listed",
        "_toc.yml: book/a is listed twice",
    ]  # fmt: skip


FRONT = """# A book

**One [headline](a.md).**

- **First.** A {term}`gate <gate>` of 0.73 ([chapter 01](01-a.ipynb)).
- **Second.** So.
- **Third.** Thus.

**Three ways on**

- a tour

| [01 A](01-a.ipynb) | what? | 10 |
"""


def front_of(tmp_path, monkeypatch, readme=None, words=1500):
    """A book of a front page, a chapter of so many words, and a README."""
    (tmp_path / "book").mkdir()
    chapter = f"# Title\n\n{'word ' * (words - 1)}\n\n$$\n{'x ' * 1000}\n$$ (eq-a)"
    for name, source in {"intro": FRONT, "01-a": chapter}.items():
        (tmp_path / "book" / f"{name}.ipynb").write_text(json.dumps(notebook(markdown(source))), encoding="utf-8")
    readme = readme or FRONT.replace("(01-", "(book/01-").replace("{term}`gate <gate>`", "gate")
    (tmp_path / "README.md").write_text(readme, encoding="utf-8")
    monkeypatch.setattr(lint, "ROOT", tmp_path)
    monkeypatch.setattr(lint, "NOTEBOOKS", [tmp_path / "book" / "01-a.ipynb", tmp_path / "book" / "intro.ipynb"])


@pytest.mark.parametrize(("words", "said"), [(1500, None), (3200, "3,200 words, 16 minutes, not 10")])
def test_minutes_to_read_follow_the_words(tmp_path, monkeypatch, words, said):
    front_of(tmp_path, monkeypatch, words=words)
    problems = lint.front_page_says_how_long_a_chapter_is_to_read()
    assert problems == [f"intro: 01-a has {said}"] * bool(said)


def test_a_chapter_without_minutes_is_named(tmp_path, monkeypatch):
    front_of(tmp_path, monkeypatch)
    monkeypatch.setattr(lint, "NOTEBOOKS", [tmp_path / "book" / "02-b.ipynb"])
    assert lint.front_page_says_how_long_a_chapter_is_to_read() == ["intro: does not say how long 02-b is to read"]


@pytest.mark.parametrize("changed", ["**Second.** So.", "0.73", "**One"])
def test_a_readme_that_says_something_else_is_named(tmp_path, monkeypatch, changed):
    front_of(tmp_path, monkeypatch)
    assert lint.readme_opens_as_the_front_page_does() == []
    told = (tmp_path / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(told.replace(changed, "else"), encoding="utf-8")
    (problem,) = lint.readme_opens_as_the_front_page_does()
    assert problem.startswith("README.md: does not say") and changed in problem
