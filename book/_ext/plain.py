"""Plain notebooks: what a reader downloads, or opens in Colab, holds no Sphinx syntax.

A chapter is written for the built page and for JupyterLab with its MyST extension. Elsewhere its boxes would stand
as raw text. The build knows every number and every label, so when it ends, this extension writes each notebook anew
into `_sources`, where the download button and Colab's find it: boxes as quotes, answers folded in <details>,
exercises with their numbers, equations with their tags, captions below their figures, and links that lead somewhere.

It also checks the numbers that chapters write out ("[Fig. 4.2](#fig-gpsa-single)"): one that is not the number of
what it links to is a warning, and so an error in `make book`. `make numbers` writes them anew.
"""

import base64
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from sphinx.addnodes import pending_xref
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

log = logging.getLogger(__name__)

FENCE = re.compile(r"^(?P<fence>`{3,}|:{3,})\{(?P<name>[\w:-]+)\} *(?P<title>.*)$")
OPTION = re.compile(r"^:(?P<name>[\w-]+): *(?P<value>.*)$")
LINK = re.compile(r"\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<open><?)#(?P<label>[^)>]+)>?\)")
EQUATION = re.compile(r"\$\$(?P<body>[^$]+)\$\$ *\((?P<label>[\w-]+)\)")
PAGE = re.compile(r"\]\((?P<page>[\w-]+)\.(?:ipynb|md)(?P<rest>#[^)]*)?\)")
PICTURE = re.compile(r"(?P<alt>!\[[^\]]*\])\((?P<path>_static/[^)]+)\)")
ROLE = re.compile(r"\{[\w:+-]+\}`")
NUMBER = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True)
class Book:
    """What plain text needs of the built book.

    Attributes:
        numbers: "4.2" of every labelled figure, table, equation and exercise.
        pages: the name of the page on which a label stands.
        site: where the built pages are published, "" if that is not known.
        folder: where the chapters and their pictures stand.
    """

    numbers: dict[str, str]
    pages: dict[str, str]
    site: str = ""
    folder: Path = Path("book")


class NotPlain(ValueError):
    """A piece of Sphinx syntax that this module has no plain form for."""


# --- one cell


def plain_text(source: str, book: Book) -> str:
    """A Markdown cell without Sphinx syntax. NotPlain names what it cannot write."""
    lines, out = source.splitlines(), []
    while lines:
        line = lines.pop(0)
        if opened := FENCE.match(line):
            out += _directive(opened, _body(lines, opened["fence"]), book)
        elif line.startswith("```"):  # a code block is plain already
            out += [line, *_body(lines, "```"), "```"]
        else:
            out.append(line)
    text = _links("\n".join(out), book)
    if role := ROLE.search(text):
        raise NotPlain(f"the role {role[0]} has no plain form")
    return text


def _body(lines: list[str], fence: str) -> list[str]:
    """The lines up to the closing fence, taken from `lines`."""
    body = []
    while lines:
        line = lines.pop(0)
        if line.strip() == fence:
            return body
        body.append(line)
    raise NotPlain(f"a block that begins with {fence} does not end in its cell")


def _directive(opened: re.Match, body: list[str], book: Book) -> list[str]:
    name, title = opened["name"], opened["title"].strip()
    options = {}
    while body and (option := OPTION.match(body[0])):
        options[option["name"]] = option["value"]
        body.pop(0)
    content = plain_text("\n".join(body).strip("\n"), book).splitlines()
    if name == "dropdown" or (name == "admonition" and "dropdown" in options.get("class", "")):
        return [f"<details><summary>{title}</summary>", "", *content, "", "</details>"]
    if name in ("admonition", "note", "tip", "warning", "margin"):
        aside = "margin" in (name, *options.get("class", "").split())  # a note beside the text needs no heading
        heading = [] if aside else [f"**{title or name.capitalize()}**", ""]
        return [f"> {line}".rstrip() for line in [*heading, *content]]
    if name == "exercise":
        return [f"**Exercise {_number(options['label'], book)}: {title}**", "", *content]
    if name in ("figure", "image"):
        caption = [f"**Fig. {book.numbers.get(options.get('name', ''), '')}.**", *content] if content else []
        return [f"![{options.get('alt', '')}]({_embedded(title, book)})", "", *caption]
    if name == "solution-start":
        return [f"**Solution of exercise {_number(title, book)}** (its code is folded)", *content]
    if name == "solution-end":
        return []
    raise NotPlain(f"the directive {name} has no plain form")


def _embedded(path: str, book: Book) -> str:
    """A picture of the book's as an address that holds it: a downloaded notebook stands alone."""
    file = book.folder / path
    kind = {".svg": "svg+xml", ".png": "png"}.get(file.suffix)
    if kind is None or not file.is_file():
        raise NotPlain(f"the picture {path} is no SVG or PNG beside the chapters")
    return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def _number(label: str, book: Book) -> str:
    if label not in book.numbers:
        raise NotPlain(f"{label} has no number")
    return book.numbers[label]


def _links(text: str, book: Book) -> str:
    """Equations get their tags; a label becomes its words; a page's address the published one, where that is known."""
    text = EQUATION.sub(lambda m: f"$${m['body'].rstrip()} \\tag{{{_number(m['label'], book)}}}\n$$", text)
    page_of = book.pages.get

    def words(match: re.Match) -> str:
        page = page_of(match["label"].strip())
        anchored = book.site and page and match["label"] not in book.numbers
        return f"[{match['text']}]({book.site}/{page}.html)" if anchored else match["text"]

    text = LINK.sub(words, text)
    text = PICTURE.sub(lambda m: f"{m['alt']}({_embedded(m['path'], book)})", text)
    if book.site:
        text = PAGE.sub(lambda m: f"]({book.site}/book/{m['page']}.html{m['rest'] or ''})", text)
    return text


# --- a notebook


def plain_notebook(notebook: dict, book: Book) -> dict:
    """A notebook whose Markdown is plain. A captioned figure is followed by its number and caption."""
    cells = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "markdown":
            cells.append(cell)
            figure = cell["metadata"].get("mystnb", {}).get("figure", {})
            if caption := figure.get("caption"):
                words = plain_text(caption, book)
                number = book.numbers.get(figure.get("name", ""), "")
                cells.append(_markdown(f"**Fig. {number}.** {words}", f"{cell.get('id', 'cell')}-caption"))
        elif text := plain_text("".join(cell["source"]), book).strip("\n"):
            cells.append(cell | {"source": text.splitlines(keepends=True)})
    return notebook | {"cells": cells}


def _markdown(text: str, name: str) -> dict:
    return {"cell_type": "markdown", "id": name[-64:], "metadata": {}, "source": text.splitlines(keepends=True)}


# --- numbers that chapters write out


def with_numbers(source: str, numbers: dict[str, str]) -> tuple[str, list[str]]:
    """A cell's text with the true number in every numbered link, and what was wrong."""
    wrong = []

    def right(match: re.Match) -> str:
        true, said = numbers.get(match["label"]), NUMBER.search(match["text"])
        if true is None or said is None or said[0] == true:
            return match[0]
        wrong.append(f"[{match['text']}](#{match['label']}) should say {true}")
        return match[0].replace(said[0], true, 1)

    return LINK.sub(right, source), wrong


# --- the Sphinx extension


def numbers_of(env) -> tuple[dict[str, str], dict[str, str]]:
    """Numbers and pages of all labels, from a built environment."""
    standard, numbers, pages = env.get_domain("std"), {}, {}
    for label, (page, anchor) in standard.anonlabels.items():
        pages[label] = page
        for found in env.toc_fignumbers.get(page, {}).values():
            if anchor in found:
                numbers[label] = ".".join(map(str, found[anchor]))
    for label, (page, _) in env.get_domain("math").equations.items():
        pages[label] = page
        if found := env.toc_fignumbers.get(page, {}).get("displaymath", {}).get(f"equation-{label}"):
            numbers[label] = ".".join(map(str, found))
    for (kind, term), (page, _) in standard.objects.items():
        if kind == "term":
            pages[term] = page
    return numbers, pages


def notebooks(app) -> list[tuple[str, Path]]:
    found = ((page, Path(app.env.doc2path(page))) for page in app.env.found_docs)
    return sorted((page, path) for page, path in found if path.suffix == ".ipynb")


def check_numbers(app, env) -> None:
    """Warn of each written number that is wrong; write it right instead where CONVIT_EDU_NUMBERS=write."""
    numbers, _ = numbers_of(env)
    write = os.environ.get("CONVIT_EDU_NUMBERS") == "write"
    for page, path in notebooks(app):
        notebook, wrong = json.loads(path.read_text(encoding="utf-8")), []
        for cell in notebook["cells"]:
            figure = cell["metadata"].get("mystnb", {}).get("figure", {})
            if "caption" in figure:
                figure["caption"], found = with_numbers(figure["caption"], numbers)
                wrong += found
            if cell["cell_type"] == "markdown":
                text, found = with_numbers("".join(cell["source"]), numbers)
                cell["source"] = text.splitlines(keepends=True)
                wrong += found
        if wrong and write:
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        elif wrong:
            for each in wrong:
                log.warning(each, location=page)


def write_plain(app, exception) -> None:
    """The notebooks in `_sources`, plain."""
    if exception or app.builder.format != "html":
        return
    address = re.fullmatch(r"https://github\.com/([^/]+)/([^/]+)", getattr(app.config, "convit_edu_repository", ""))
    site = app.config.html_baseurl.rstrip("/") or (f"https://{address[1]}.github.io/{address[2]}" if address else "")
    book = Book(*numbers_of(app.env), site, Path(app.srcdir, "book"))
    for page, path in notebooks(app):
        target = Path(app.outdir, "_sources", page + path.suffix)
        if not target.is_file():
            continue
        try:
            notebook = plain_notebook(json.loads(target.read_text(encoding="utf-8")), book)
        except NotPlain as error:
            log.warning("%s: the plain notebook was not written", error, location=page)
            continue
        target.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


class CapitalTerms(SphinxPostTransform):
    """Make "[ConViT](#ConViT)" a link to the glossary: MyST finds a term only by its small letters."""

    default_priority = 8  # before MyST's own

    def run(self) -> None:
        terms = {term for kind, term in self.env.get_domain("std").objects if kind == "term"}
        for node in self.document.findall(pending_xref):
            if node["reftype"] == "myst" and node["reftarget"] in terms:
                node["refdomain"], node["reftype"] = "std", "term"


def setup(app) -> dict[str, bool]:
    app.add_post_transform(CapitalTerms)
    app.connect("env-check-consistency", check_numbers)  # only now is everything numbered
    app.connect("build-finished", write_plain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
