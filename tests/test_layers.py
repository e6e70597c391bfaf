"""The layers that stand in chapters 02, 04 and 05 are short and need torch alone; that they are the package's is
asserted there, start included.
"""

import ast
import json

import pytest
from lint_notebooks import ROOT, text

CELLS = {  # chapter: (the cell, the most lines that its classes may have)
    "02-self-attention": ("attention-class", 15),
    "04-gpsa": ("gpsa-class", 30),
    "05-convit": ("convit-class", 40),
}


@pytest.mark.parametrize("chapter", CELLS)
def test_a_layer_fits_its_screen_and_needs_torch_alone(chapter):
    name, most = CELLS[chapter]
    cells = json.loads((ROOT / "book" / f"{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]
    (code,) = [text(cell["source"]) for cell in cells if cell["id"] == name]
    lines = [line for line in code[code.index("\nclass ") :].splitlines() if line.strip()]
    assert len(lines) <= most
    assert max(map(len, code.splitlines())) <= 90  # what a page shows without scrolling
    imported = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {getattr(node, "module", None) or node.names[0].name for node in imported}
    assert modules <= {"math", "collections", "functools", "torch", "torch.nn"}
