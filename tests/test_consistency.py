"""What the pages say about each other and about the package: names, symbols, records, links, spelling, terms.

Each rule is a function: a page in, a list of problems out. `test_book.py` has the rules for a notebook by itself.
Equations, figures, sources and terms that nothing defines are warnings of the build, and errors in `make book`.
"""

import ast
import builtins
import importlib
import inspect
import json
import re
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch
from test_book import NOTEBOOKS, PATH, ROOT, text

from convit_edu.lab.experiments import NAMES
from convit_edu.lab.records import shipped

BOOK = ROOT / "book"
PACKAGE_AT = ROOT / "convit_edu"
SOURCES = sorted(path for path in PACKAGE_AT.rglob("*.py") if path.parent.name != "checks")

# Terms that are everyday words as well: an author links them by hand where they are meant.
EVERYDAY = {"arm", "checkpoint", "key", "masking", "padding", "parity", "record", "scale", "value"}

# Numbers of a machine or a version that may stand in prose: (page, words) and why.
ALLOWED = {
    ("run-it", "Python 3.11"): "what the installation needs",
}


class Page(NamedTuple):
    """A notebook or a Markdown file: its name and its cells as (is it code, source)."""

    name: str
    cells: list[tuple[bool, str]]

    @property
    def markdown(self):
        return [(i, source) for i, (is_code, source) in enumerate(self.cells) if not is_code]

    @property
    def code(self):
        code = "\n".join(source for is_code, source in self.cells if is_code)
        return re.sub(r"^( *)%.*$", r"\1pass", code, flags=re.M)  # IPython's own lines are no Python


def read(path):
    if path.suffix == ".md":
        return Page(path.stem, [(False, path.read_text(encoding="utf-8"))])
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return Page(path.stem, [(cell["cell_type"] == "code", text(cell["source"])) for cell in cells])


PAGES = [read(path) for path in [*NOTEBOOKS, *sorted(BOOK.glob("*.md")), ROOT / "README.md"]]
NOTATION = read(BOOK / "notation.md")
BIBLIOGRAPHY = (BOOK / "references.bib").read_text(encoding="utf-8")

# --- what is prose

FENCE = r"^(?P<fence>[`~:]{3,})[^\n]*\n.*?^(?P=fence) *$"
MATHS = r"^\$\$.*?\$\$|\$[^$]+\$"
SPAN = r"(?:\{[\w:+-]+\})?`[^`]+`"
NO_PROSE = re.compile(rf"{FENCE}|{MATHS}|{SPAN}|\[[^]]*\]\([^)]*\)|^#.*?$|^\|.*?$|\*\*.+?\*\*", re.M | re.S)
NO_WORDS = re.compile(rf"{MATHS}|{SPAN}", re.M | re.S)


def blank(pattern, source):
    """The source with what the pattern finds made unreadable, every character and line at its place."""
    return pattern.sub(lambda match: re.sub(r"[^\n]", "\0", match[0]), source)


# --- names and symbols


def defined_in(tree):
    """Every name that a piece of Python defines: functions, classes, arguments, variables, attributes."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                found.add(name)
    return found


MODULES = {path.stem: path for path in SOURCES}  # pages name a module without its folder
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
DOTTED = {name: ".".join(path.relative_to(ROOT).with_suffix("").parts) for name, path in MODULES.items()}
CLASSES = {node.name: name for name, tree in TREES.items() for node in tree.body if isinstance(node, ast.ClassDef)}
PACKAGE = set(TREES).union(*map(defined_in, TREES.values()))
ATTRIBUTES = PACKAGE | {"weight", "bias", *dir(torch.Tensor), *dir(dict)}


def members(name, own):
    """What may stand after the dot of a module or class of the package; anything known, after a variable."""
    if name in CLASSES:
        owner = getattr(importlib.import_module(DOTTED[CLASSES[name]]), name)
        bases = [base for base in owner.__mro__ if base.__module__.startswith("convit_edu")]
        return set(dir(owner)).union(*(defined_in(ast.parse(inspect.getsource(base))) for base in bases))
    if name in TREES.keys() - own:
        return set(dir(importlib.import_module(DOTTED[name])))
    return ATTRIBUTES


def names_in_code(page):
    """Each name in the column `name in code` of a table is one of the package, or of the notebook's own cells."""
    own = defined_in(ast.parse(page.code))
    known = PACKAGE | set(dir(builtins)) | own
    problems = []
    for span in re.findall(r"`([^`]+)`", " ".join(column(page, "name in code"))):
        try:
            nodes = list(ast.walk(ast.parse(span, mode="eval")))
        except SyntaxError:
            problems.append(f"`{span}` is no Python")
            continue
        problems += [f"`{span}`: no {n.id}" for n in nodes if isinstance(n, ast.Name) and n.id not in known]
        dotted = [(getattr(n.value, "id", ""), n.attr) for n in nodes if isinstance(n, ast.Attribute)]
        problems += [f"`{span}`: no {owner}.{name}" for owner, name in dotted if name not in members(owner, own)]
    return problems


def column(page, header):
    """The cells under a header in all tables of a page."""
    place = None
    for line in "\n".join(source for _, source in page.markdown).splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if header in cells:
            place = cells.index(header)
        elif not cells:
            place = None
        elif place is not None:
            yield cells[place]


def symbols_of(page):
    """The symbols in a page's tables, without brackets and what stands above: {W_val, g} of $W_{val}^h$, $g$."""
    found = set()
    for maths in re.findall(r"\$([^$]+)\$", " ".join(column(page, "symbol"))):
        bare = re.sub(r"\^(\{[^}]*\}|\w)|\([^)]*\)|\\(?:mathrm|text|lvert|rvert|times\b.*)|[{}\s|]", "", maths)
        found |= {part for part in re.split(r"[,;=]", bare) if part}
    return found


def symbols_in_the_notation(page):
    """Each symbol of a chapter's table stands on the page of the notation, too."""
    return [f"the notation has no {symbol}" for symbol in sorted(symbols_of(page) - symbols_of(NOTATION))]


# --- records, experiments, scripts, pages

RECORD = re.compile(r"\bResults\(\"(\w+)\"")
CHECKPOINT = re.compile(r"\bcheckpoint\(\"(\w+)\"")
COMMAND = re.compile(r"(?:convit_edu |`)(?:run|report) ([a-z_ ]+)|\bexperiments? `(\w+)`")
SCRIPT = re.compile(r"\b(?:benchmarks|scripts)/\w+\.py\b")
PAGE = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def references(page):
    """Records, checkpoints, experiments, scripts and pages that a page names and that are not there."""
    whole = "\n".join(source for _, source in page.cells)
    words = "\n".join(source for _, source in page.markdown)
    recorded, folder = shipped() / "laptop", ROOT if page.name == "README" else BOOK
    experiments = [name for m in COMMAND.finditer(whole) for name in (m[1] or m[2]).split()]
    return [
        *(f"no record {name}" for name in RECORD.findall(whole) if not (recorded / f"{name}.json").is_file()),
        *(f"no checkpoint {n}" for n in CHECKPOINT.findall(whole) if not (recorded / f"{n}.safetensors").is_file()),
        *(f"no experiment {name}" for name in experiments if name not in {*NAMES, "all"}),
        *(f"no script {name}" for name in SCRIPT.findall(whole) if not (ROOT / name).is_file()),
        *(f"no page {name}" for name in PAGE.findall(words) if not (folder / name).is_file()),
    ]


# --- links to the network

URL = re.compile(r"https?://(?!www\.w3\.org/2000/svg)[^\s()<>\[\]{}\"'`\\|]+[^\s()<>\[\]{}\"'`\\|.,;:]")


def links(used, listed):
    """Links that are used and not listed, or listed and not used; a source's DOI and URL count as listed."""
    dois = {f"https://doi.org/{doi}" for doi in re.findall(r"^ *doi *= *\{([^}]+)\}", BIBLIOGRAPHY, re.M)}
    found = {match for source in used for match in URL.findall(source)}
    problems = [f"not listed: {link}" for link in sorted(found - {*listed, *dois, *URL.findall(BIBLIOGRAPHY)})]
    problems += [f"listed, not used: {link}" for link in sorted({*listed} - found)]
    return problems + ["not sorted"] * (listed != sorted(listed))


# --- spelling and numbers

CORRECT = "nd"  # what codespell takes for a mistake (a product of N and D), in small letters, with commas between


def misspelt(files):
    """What codespell says of some files; it knows common mistakes and not all words."""
    command = [sys.executable, "-m", "codespell_lib", "--ignore-words-list", CORRECT, *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()


MEASURED = re.compile(
    r"\d[\d.,]*[ ~]?(?:images? (?:a|per) second|images/s|(?:milli|micro)?seconds?|ms|s|minutes?|hours?|[kMG]i?B)(?!\w)"
    r"|\b(?:PyTorch|torch|numpy|timm|Python|matplotlib|Sphinx|Jupyter Book) (?:version )?v?\d+\.\d+"
    r"|\b(?:19|20)\d\d-[01]\d-[0-3]\d\b|\b[0-2]?\d:[0-5]\d\b"
)


def numbers_of_a_machine(page):
    """Times, sizes of files, versions, dates and paths in prose; the line `It runs in` may say how long it takes."""
    lines = [(i, line) for i, source in page.markdown for line in blank(NO_WORDS, source).splitlines()]
    spoken = [(i, line) for i, line in lines if "**It runs in**" not in line]
    found = [(i, m[0]) for i, line in spoken for pattern in (MEASURED, PATH) for m in pattern.finditer(line)]
    return [f"cell {i}: {what}" for i, what in found if (page.name, what) not in ALLOWED]


# --- terms of the glossary

TERM = re.compile(r"\{term\}`(?:[^`<]*<)?([^`<>]+)>?`")


def glossary_of(page):
    """{form: (entry, the page that explains it)}: forms of one entry stand in lines of their own."""
    body = re.search(r"^```\{glossary\}\n(?::[^\n]*\n)*(.*?)^```$", page.cells[0][1], re.M | re.S)[1]
    forms = {}
    for block in re.split(r"\n\n(?=\S)", body.strip()):
        names = [line for line in block.splitlines() if not line.startswith(" ")]
        explained = re.search(r"\]\(([\w-]+)\.ipynb\)", block)
        forms |= {name: (names[0], explained and explained[1]) for name in names}
    return forms


GLOSSARY = glossary_of(read(BOOK / "glossary.md"))
BY_LOWER = {form.lower(): form for form in GLOSSARY}
FORMS = "|".join(re.escape(form).replace(r"\ ", r"\s+") for form in sorted(GLOSSARY, key=len, reverse=True))
WORD = re.compile(rf"(?<![\w-])({FORMS})(?:e?s)?(?![\w-])", re.I)  # the longest form first


def uses(source):
    """(start, end, form, is it linked) of each use of a term in the prose of a cell, plural or not, in order."""
    plain = [(*m.span(), " ".join(m[1].lower().split()), False) for m in WORD.finditer(blank(NO_PROSE, source))]
    linked = [(*m.span(), m[1].lower(), True) for m in TERM.finditer(source)]
    return [(*use[:2], BY_LOWER[use[2]], use[3]) for use in sorted(plain + linked) if use[2] in BY_LOWER]


def first_uses(page):
    """(cell, start, end, form, is it linked) of the first use of each entry, but on the page that explains it."""
    seen = {entry for entry, explained in GLOSSARY.values() if explained == page.name}
    first = []
    for i, source in page.markdown:
        for start, end, form, linked in uses(source):
            entry = GLOSSARY[form][0]
            if entry not in seen and (linked or form not in EVERYDAY):
                seen.add(entry)
                first.append((i, start, end, form, linked))
    return first


def terms_are_linked(page):
    """Each term of the glossary is a link where a notebook first uses it."""
    return [f"cell {i}: link {form}" for i, *_, form, linked in first_uses(page) if page.code and not linked]


# --- the book

RULES = [names_in_code, symbols_in_the_notation, references, numbers_of_a_machine, terms_are_linked]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_agrees_with_the_rest(page, rule):
    problems = rule(page)
    assert not problems, "\n" + "\n".join(problems)


def test_links_are_listed_in_one_place():
    used = [source for page in PAGES for _, source in page.cells]
    used += [path.read_text(encoding="utf-8") for path in SOURCES]
    problems = links(used, (ROOT / "tests/links.txt").read_text(encoding="utf-8").splitlines())
    assert not problems, "\n" + "\n".join(problems)


def test_spelling(tmp_path):
    for page in PAGES:
        words = "\n\n".join(source for _, source in page.cells)
        (tmp_path / page.name).write_text(words, encoding="utf-8")
    problems = misspelt([*tmp_path.iterdir(), *SOURCES, *sorted((ROOT / "tests").glob("*.py"))])
    assert not problems, "\n" + "\n".join(problems)


def test_exceptions_are_needed():
    words = {page.name: "\n".join(source for _, source in page.markdown) for page in PAGES}
    assert not [(name, what) for name, what in ALLOWED if what not in words.get(name, "")]
    assert set(GLOSSARY) >= EVERYDAY


# --- the rules themselves: cells that pass, and cells with one problem each


def made_of(*cells):
    return Page("a-page", [(cell.startswith("#!"), cell) for cell in cells])


def table(symbol, code):
    return made_of(f"| symbol | name in code |\n|---|---|\n| {symbol} | {code} |\n\n`not this`", "#!\nmine = 1")


GOOD = [
    (names_in_code, [table("", code) for code in (
        "", "never made", "`num_heads`", "`GPSA.gating_param`, `gate()`", "`Recipe.lr`", "`locality.gates(model)`",
        "`mine[0, :]`", '`trace["blocks.l"]`', "`Estimate.n`", "`pos_proj.weight`", "`len(mine)`",
    )]),
    (symbols_in_the_notation, [table(symbol, "") for symbol in (
        "$A^{l,h}$", "$Q$, $K$", "$G_h, G_w$", "$g = \\sigma(\\lambda)$", "$W_\\text{val}$", "start",
    )]),
    (references, [made_of(cell) for cell in (
        "[1](04-gpsa.ipynb) [2](#here)", "`python -m convit_edu run ablation psa`", "`python benchmarks/attention.py`",
        '#!\nResults("ablation"); checkpoint("convit")',
    )]),
    (numbers_of_a_machine, [made_of(cell) for cell in (
        "trained for 300 steps on 5,000 images", "**It runs in** about 30 seconds.", "a gate of 0.73 at $12 s$",
        "(★ five minutes)", "Table 2.1 on 14 × 14", "`sleep 5 s`", "3 softmaxes",
    )]),
    (terms_are_linked, [made_of("#!", cell) for cell in (
        "{term}`Patches <patch>` and patches, {term}`GPSA`, later gated positional self-attention",
        "# Patch\n\n| patch |\n\n`patch`, $patch$, **patch**, [patch](a.md)\n\n```{tip}\npatch\n```",
        "self-attention-like, dispatch, ConViT-S, a parity",
    )]),
]  # fmt: skip

BAD = [
    (names_in_code, "number_of_heads", table("", "`number_of_heads`")),
    (names_in_code, "GPSA.gatingparam", table("", "`GPSA.gatingparam`")),
    (names_in_code, "Recipe.nothing", table("", "`Recipe.nothing`")),
    (names_in_code, "locality.gate", table("", "`locality.gate(model)`")),
    (names_in_code, "no Python", table("", "`two words`")),
    (symbols_in_the_notation, "no \\Omega_x", table("$\\Omega_x^h$", "")),
    (references, "no record ablations", made_of('#!\nResults("ablations")')),
    (references, "no checkpoint resnet", made_of('#!\ncheckpoint("resnet")')),
    (references, "no experiment ablations", made_of("`python -m convit_edu run psa ablations`")),
    (references, "no experiment nothing", made_of("then `run nothing`")),
    (references, "no experiment sizes", made_of("the experiment `sizes`")),
    (references, "no page 04-gspa.ipynb", made_of("[04](04-gspa.ipynb)")),
    (references, "no script benchmarks/none.py", made_of("`python benchmarks/none.py`")),
    *((numbers_of_a_machine, "cell 0", made_of(cell)) for cell in (
        "It took 12 s.", "1,442 images/s", "in 3.5 ms", "about 30 seconds", "2.6 MB", "with PyTorch 2.5", "timm 1.0",
        "on 2026-11-23", "at 10:00", "from /home/ada/x",
    )),
    (terms_are_linked, "link patch", made_of("#!", "Two patches, {term}`patches <patch>`")),
    (terms_are_linked, "link class token", made_of("#!", "a class\ntoken")),
    (terms_are_linked, "link gated positional", made_of("#!", "Gated positional self-attention, {term}`GPSA`")),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "pages"), GOOD, ids=lambda value: getattr(value, "__name__", ""))
def test_good_cells_pass(rule, pages):
    assert [rule(page) for page in pages] == [[]] * len(pages)


@pytest.mark.parametrize(("rule", "message", "page"), BAD, ids=lambda value: getattr(value, "__name__", ""))
def test_a_bad_cell_fails(rule, message, page):
    (problem,) = rule(page)
    assert message in problem


def test_every_rule_has_both():
    assert {rule for rule, _ in GOOD} == {rule for rule, *_ in BAD} == set(RULES)


def test_a_term_is_not_linked_where_it_is_explained():
    page = made_of("#!", "two patches")
    assert GLOSSARY["patch"] == ("patch", "02-self-attention")
    assert first_uses(page) == [(1, 4, 11, "patch", False)]
    assert first_uses(page._replace(name="02-self-attention")) == []


def test_links_are_told_apart():
    doi = "https://doi.org/10.1109/CVPR.2016.90"
    assert links(["See https://a.org/b. And (https://b.org/)", doi], ["https://a.org/b", "https://b.org/"]) == []
    assert links(["https://a.org"], []) == ["not listed: https://a.org"]
    assert links([], ["https://a.org"]) == ["listed, not used: https://a.org"]
    assert links(["https://a.org https://b.org"], ["https://b.org", "https://a.org"]) == ["not sorted"]


def test_mistakes_are_found(tmp_path):
    (tmp_path / "good").write_text("The colour of a neighbour, favoured by the centre.", encoding="utf-8")
    mistake = "We receive it.".replace("ei", "ie")  # not written out: this file is checked, too
    (tmp_path / "bad").write_text(mistake, encoding="utf-8")
    (problem,) = misspelt([tmp_path / "good", tmp_path / "bad"])
    assert "receive" in problem
