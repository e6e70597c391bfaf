"""The notebooks' house rules, checked on the stored files: no kernel runs here. scripts/lint_book.py applies them.

Each rule is a function: a parsed notebook in, a list of problems out. `pytest --nbval` compares outputs, but
it passes a notebook that was never run, and knows nothing of alt text, exercises or paths.
"""

import itertools
import json
import re
import runpy
from pathlib import Path

import yaml

import convit_edu.book.checks

ROOT = Path(__file__).resolve().parents[1]
FIRST_CELL = runpy.run_path(str(ROOT / "book" / "_ext" / "launch.py"))["FIRST_CELL"].strip()
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))

IGNORE, RAISES = "nbval-ignore-output", "raises-exception"
FOLDING = {f"{verb}-{part}" for verb in ("hide", "remove") for part in ("cell", "input", "output")}
TAGS = {IGNORE, RAISES, "full-width"} | FOLDING
CHECKS = {name for name in vars(convit_edu.book.checks) if name.startswith("check_")}
MAX_BYTES = 1_000_000

MARKER = re.compile(r"^\s*#\s*(NBVAL_\w+)\s*$", re.M)
PATH = re.compile(r"(?<![\w.~/])(/(Users|content|home|mnt|opt|root|tmp|usr|var|work)/|~/|[A-Za-z]:\\\w)")
NO_ALT = re.compile(r"!\[\s*\]\(|<img\b(?![^>]*\balt=)|\{(?:image|figure)\}.*\n(?!(?::\w+:.*\n)*:alt:)")
REMOTE = re.compile(r"!\[[^\]]*\]\(<?https?:|<img\b[^>]*\bsrc=[\"']?https?:|\{(?:image|figure)\}\s*https?:")
PROGRESS = re.compile(r"\d+%\||\d ?(?:it/s|s/it)\b|\r(?!\n)")
RAW = re.compile(r"\{[\w:+-]+\}`|^`{3,}\{[\w:-]+\}|^:{3,}\{margin\}", re.M)
DIRECTIVE = re.compile(r"^[`:]{3,}\{(exercise|solution)(?:-start)?\} *(.*)\n((?::\w+:.*\n?)*)", re.M)

# --- reading


def text(value):
    """nbformat stores text as one string or as a list of lines."""
    return value if isinstance(value, str) else "".join(value)


def code_cells(nb):
    """(number in the notebook, cell) of each code cell that is not empty."""
    code = [(i, cell) for i, cell in enumerate(nb["cells"]) if cell["cell_type"] == "code"]
    return [(i, cell) for i, cell in code if text(cell["source"]).strip()]


def sources(nb):
    return [(i, text(cell["source"])) for i, cell in enumerate(nb["cells"])]


def outputs(nb):
    return [(i, out) for i, cell in code_cells(nb) for out in cell["outputs"]]


def readable(nb):
    """What a reader can read of the outputs: everything but the pixels."""
    for i, out in outputs(nb):
        data = out.get("data", {}).items()
        words = [text(value) for mime, value in data if mime.startswith("text/") or "svg" in mime]
        yield i, "\n".join([*words, text(out.get("text", "")), *out.get("traceback", [])])


def tags(cell):
    return set(cell["metadata"].get("tags", []))


# --- rules


def executed_in_order(nb):
    counts = [cell["execution_count"] for _, cell in code_cells(nb)]
    in_order = counts == list(range(1, len(counts) + 1))
    return [] if in_order else [f"not run once from top to bottom: counts {counts}"]


def known_tags(nb):
    unknown = [(i, tag) for i, cell in enumerate(nb["cells"]) for tag in sorted(tags(cell) - TAGS)]
    comments = [(i, MARKER.search(source)) for i, source in sources(nb)]
    return [f"cell {i}: unknown tag {tag}" for i, tag in unknown] + [
        f"cell {i}: {m[1]} must be a tag, not a comment" for i, m in comments if m
    ]


def no_stderr(nb):
    return [f"cell {i}: stderr in an output" for i, out in outputs(nb) if out.get("name") == "stderr"]


def no_surprising_error(nb):
    errors = [(i, out["ename"]) for i, out in outputs(nb) if out["output_type"] == "error"]
    unmarked = [(i, name) for i, name in errors if RAISES not in tags(nb["cells"][i])]
    return [f"cell {i}: {name} without the tag {RAISES}" for i, name in unmarked]


def no_local_path(nb):
    found = [(i, PATH.search(place)) for i, place in [*sources(nb), *readable(nb)]]
    return [f"cell {i}: a path of one machine, {match[0]}" for i, match in found if match]


def images_have_alt(nb):
    drawn = {i for i, out in outputs(nb) if any(mime.startswith("image/") for mime in out.get("data", {}))}
    metadata = {i: nb["cells"][i]["metadata"].get("mystnb", {}) for i in drawn}
    without = {i for i in drawn if not metadata[i].get("image", {}).get("alt")}
    without |= {i for i, place in [*sources(nb), *readable(nb)] if NO_ALT.search(place)}
    return [f"cell {i}: an image without alt text" for i in sorted(without)]


def no_remote_image(nb):
    places = [*sources(nb), *readable(nb)]
    return [f"cell {i}: an image from the network" for i, place in places if REMOTE.search(place)]


def no_final_semicolon(nb):
    """nbval runs cells without history, where a semicolon silences nothing."""
    ends = [i for i, cell in code_cells(nb) if text(cell["source"]).rstrip().endswith(";")]
    return [f"cell {i}: ends in a semicolon (end a plot with plt.show())" for i in ends]


def exercises_are_complete(nb):
    """Each has a solution, and a check function is named before the next exercise begins."""
    book = "\n".join(source for _, source in sources(nb))
    found = list(DIRECTIVE.finditer(book))
    solved = {m[2].strip() for m in found if m[1] == "solution"}
    exercises = [m for m in found if m[1] == "exercise"]
    problems = []
    for exercise, following in itertools.zip_longest(exercises, exercises[1:]):
        end = following.start() if following else len(book)
        label = re.search(r":label: *(\S+)", exercise[3])
        name = label[1] if label else f"{exercise[2]!r} without label"
        if name not in solved:
            problems.append(f"exercise {name}: no solution refers to it")
        if not CHECKS & set(re.findall(r"\bcheck_\w+", book[exercise.start() : end])):
            problems.append(f"exercise {name}: names no check function of convit_edu.book.checks")
    return problems


def reads_without_sphinx(nb):
    """JupyterLab and Colab read the same Markdown: references are links, boxes have colons, no number is glued in."""
    problems = []
    for i, cell in enumerate(nb["cells"]):
        if cell["cell_type"] == "markdown":
            found = RAW.findall(text(cell["source"]))
            problems += [f"cell {i}: {raw!r} is for Sphinx alone: write a link, or a box with colons" for raw in found]
    return problems


def drawing_and_solutions_are_folded(nb):
    """JupyterLab knows no hide-input, and opens a solution's code: both fold by the cell's metadata, in Colab too."""
    problems, solution = [], False
    for i, cell in enumerate(nb["cells"]):
        if cell["cell_type"] == "markdown":
            solution = "{solution-start}" in text(cell["source"])
        elif (solution or tags(cell) & {"hide-input", "remove-input", "remove-cell"}) and text(cell["source"]).strip():
            folded = cell["metadata"].get("jupyter", {}).get("source_hidden")
            if not folded or cell["metadata"].get("cellView") != "form":
                problems.append(f"cell {i}: fold its code (jupyter.source_hidden: true, cellView: form)")
    return problems


def ignored_outputs_are_few(nb):
    shown = [cell for _, cell in code_cells(nb) if cell["outputs"]]
    ignored = sum(IGNORE in tags(cell) for _, cell in code_cells(nb))
    return [f"{ignored} of {len(shown)} outputs ignored: over a tenth"] if 10 * ignored > len(shown) else []


def ignored_outputs_are_asserted(nb):
    cells = code_cells(nb)
    following = [cell for _, cell in cells[1:]] + [{"source": "", "metadata": {}}]
    checks = ["assert " in text(c["source"]) and not tags(c) & {IGNORE, RAISES} for c in following]
    unasserted = [i for (i, c), check in zip(cells, checks, strict=True) if IGNORE in tags(c) and not check]
    return [f"cell {i}: ignored, and no checked assert follows" for i in unasserted]


def plain_kernel(nb):
    name = nb["metadata"].get("kernelspec", {}).get("name")
    return [] if name == "python3" else [f"kernel {name}, not python3"]


def small_file(nb):
    size = len(json.dumps(nb, ensure_ascii=False, indent=1).encode())
    return [] if size <= MAX_BYTES else [f"{size:,} bytes, over {MAX_BYTES:,}"]


def no_progress_bar(nb):
    return [f"cell {i}: a progress bar" for i, place in readable(nb) if PROGRESS.search(place)]


def first_cell_installs(nb):
    """The first code cell is the one of book/_ext/launch.py, with an address or without; no page shows it."""
    for _, cell in code_cells(nb)[:1]:
        source = re.sub(r'REPOSITORY = "[^"]*"', 'REPOSITORY = ""', text(cell["source"])).strip()
        if source == FIRST_CELL and "remove-cell" in tags(cell) and not cell["outputs"]:
            return []
    return ["the first code cell is not FIRST_CELL of book/_ext/launch.py, hidden and silent"]


RULES = [
    first_cell_installs,
    executed_in_order, known_tags, no_stderr, no_surprising_error, no_local_path, images_have_alt,
    no_remote_image, no_final_semicolon, exercises_are_complete, ignored_outputs_are_few,
    ignored_outputs_are_asserted, plain_kernel, small_file, no_progress_bar, reads_without_sphinx,
    drawing_and_solutions_are_folded,
]  # fmt: skip


# --- files beside the notebooks


def contents_list_every_page_once():
    """_toc.yml against the pages that are there."""

    def pages(node):
        if isinstance(node, dict):
            return [node[key] for key in ("root", "file") if key in node] + pages(list(node.values()))
        return [page for child in node for page in pages(child)] if isinstance(node, list) else []

    listed = pages(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
    stored = [f"book/{path.stem}" for path in [*NOTEBOOKS, *(ROOT / "book").glob("*.md")]]
    problems = [f"_toc.yml: {page} is listed and not there" for page in sorted(set(listed) - set(stored))]
    problems += [f"_toc.yml: {page} is there and not listed" for page in sorted(set(stored) - set(listed))]
    twice = sorted({page for page in listed if listed.count(page) > 1})
    return problems + [f"_toc.yml: {page} is listed twice" for page in twice]


def readme_shows_the_picture_of_the_front_page():
    script = runpy.run_path(str(ROOT / "scripts" / "front_picture.py"))
    if script["PICTURE"].read_bytes() != script["first_picture"]():
        return ["README.md: its picture is not that of book/intro.ipynb; run: python scripts/front_picture.py"]
    shown = str(script["PICTURE"].relative_to(ROOT)) in (ROOT / "README.md").read_text(encoding="utf-8")
    return [] if shown else ["README.md: does not show the picture of book/intro.ipynb"]


def prose(path):
    """What a page says: its Markdown, and what its cells display as Markdown."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    written = [text(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    displayed = [out.get("data", {}).get("text/markdown", "") for cell in cells for out in cell.get("outputs", [])]
    return "\n\n".join([*written, *map(text, displayed)])


def read_aloud(source):
    """The words of Markdown: no displayed formulas, no marks of boxes and terms, not where links lead."""
    source = re.sub(r"^\$\$.*?^\$\$[^\n]*$", "", source, flags=re.M | re.S)
    source = re.sub(r"^[`:~]{3,}.*$|^:\w+:.*$", "", source, flags=re.M)
    source = re.sub(r"\{[\w:]+\}`([^`<]*?) *(?:<[^`]*>)?`", r"\1", source)
    source = re.sub(r"\]\([^)]*\)", "]", source)
    return " ".join(re.sub(r"[\[\]]", "", source).split())


def front_page_says_how_long_a_chapter_is_to_read():
    """200 words a minute, code and formulas apart, rounded up to five minutes; one step of five may be off."""
    book, problems = ROOT / "book", []
    rows = dict(re.findall(r"^\| .*\]\(([\w-]+)\.ipynb\).* \| (\d+) \|$", prose(book / "intro.ipynb"), re.M))
    missing = {path.stem for path in NOTEBOOKS if path.stem[:2].isdigit()} - rows.keys()
    for name, minutes in rows.items():
        words = len(re.findall(r"[A-Za-z][\w'-]*", read_aloud(prose(book / f"{name}.ipynb"))))
        if abs(int(minutes) - 5 * -(-words // 1000)) > 5:
            problems.append(f"intro: {name} has {words:,} words, {words / 200:.0f} minutes, not {minutes}")
    return problems + [f"intro: does not say how long {name} is to read" for name in sorted(missing)]


def readme_opens_as_the_front_page_does():
    """The headline and the three facts are the same sentences; only the links lead elsewhere."""
    front, readme = (read_aloud(prose(ROOT / name)) for name in ("book/intro.ipynb", "README.md"))
    facts = re.findall(r"- (\*\*.+?)(?= - |$)", front.split(" **Three ways on**")[0])
    told = [*re.findall(r"\*\*.+?\*\*", front)[:1], *facts]
    problems = [f"README.md: does not say, as the front page does: {each}" for each in told if each not in readme]
    return problems + ["intro: three facts are wanted before the three ways on"] * (len(facts) != 3)


OF_THE_FRONT = (
    contents_list_every_page_once, readme_shows_the_picture_of_the_front_page, readme_opens_as_the_front_page_does,
    front_page_says_how_long_a_chapter_is_to_read,
)  # fmt: skip


def problems_of_notebooks():
    for path in NOTEBOOKS:
        nb = json.loads(path.read_text(encoding="utf-8"))
        yield from (f"{path.name}: {problem}" for rule in RULES for problem in rule(nb))
    for rule in OF_THE_FRONT:
        yield from rule()
