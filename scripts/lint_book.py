"""What the pages say about each other and about the package: names, symbols, records, links, spelling, terms.

    python scripts/lint_book.py    # every problem of the book in a line of its own; make lint calls it

Each rule is a function: a page in, a list of problems out. `lint_notebooks.py` has the rules for a notebook by itself.
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
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from lint_notebooks import NOTEBOOKS, PATH, ROOT, problems_of_notebooks, text

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
COMMAND = re.compile(r"(?:convit[_-]edu |`)(?:run|report) ([a-z_ ]+)|\bexperiments? `(\w+)`")
SCRIPT = re.compile(r"\b(?:benchmarks|scripts)/\w+\.py\b")
PAGE = re.compile(r"\]\((?!https?:|<?#)([^)#\s]+)")
NUMBERED = re.compile(r"\[(?:[Cc]hapter\s+)?(\d\d)\b[^\]]*\]\((?:book/)?(\d\d)-")


def references(page):
    """Records, checkpoints, experiments, scripts and pages that are not there, and chapters by another's number."""
    whole = "\n".join(source for _, source in page.cells)
    words = "\n".join(source for _, source in page.markdown)
    recorded, folder = shipped() / "laptop", ROOT if page.name == "README" else BOOK
    experiments = [name for m in COMMAND.finditer(whole) for name in (m[1] or m[2]).split()]
    return [
        *(f"no record {name}" for name in RECORD.findall(whole) if name not in NAMES),
        *(f"no checkpoint {n}" for n in CHECKPOINT.findall(whole) if not (recorded / f"{n}.safetensors").is_file()),
        *(f"no experiment {name}" for name in experiments if name not in {*NAMES, "all"}),
        *(f"no script {name}" for name in SCRIPT.findall(whole) if not (ROOT / name).is_file()),
        *(f"no page {name}" for name in PAGE.findall(words) if not (folder / name).is_file()),
        *(f"{said} leads to chapter {there}" for said, there in NUMBERED.findall(words) if said != there),
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

# What codespell takes for a mistake (a product of N and D, a name mistyped on purpose), in small letters.
CORRECT = "nd,reprot,szie"


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

TERM = re.compile(r"\[[^\]]*\]\(<?#([^)>]+)>?\)")


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


def misspelt_pages():
    with tempfile.TemporaryDirectory() as folder:
        for page in PAGES:
            words = "\n\n".join(source for _, source in page.cells)
            Path(folder, page.name).write_text(words, encoding="utf-8")
        files = [*sorted(Path(folder).iterdir()), *SOURCES, *sorted((ROOT / "tests").glob("*.py"))]
        return [line.removeprefix(f"{folder}/") for line in misspelt(files)]


def exceptions_are_needed():
    words = {page.name: "\n".join(source for _, source in page.markdown) for page in PAGES}
    unused = [f"ALLOWED: {name} has no {what!r}" for name, what in ALLOWED if what not in words.get(name, "")]
    return unused + [f"EVERYDAY: {term} is not in the glossary" for term in sorted(EVERYDAY - set(GLOSSARY))]


def problems_of_pages():
    for page in PAGES:
        yield from (f"{page.name}: {problem}" for rule in RULES for problem in rule(page))
    used = [source for page in PAGES for _, source in page.cells]
    used += [path.read_text(encoding="utf-8") for path in SOURCES]
    listed = (ROOT / "tests/links.txt").read_text(encoding="utf-8").splitlines()
    yield from (f"tests/links.txt: {problem}" for problem in links(used, listed))
    yield from misspelt_pages() + exceptions_are_needed()


def main():
    problems = [*problems_of_notebooks(), *problems_of_pages()]
    print("\n".join(problems) if problems else f"{len(PAGES)} pages keep the rules")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
