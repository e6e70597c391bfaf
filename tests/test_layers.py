"""The layers that stand in chapters 02, 04 and 05: short, on their own, and the package's to 1e-12, start included."""

import ast
import json

import pytest
import torch
from lint_notebooks import ROOT, text

import convit_edu

CELLS = {  # chapter: (the cell, the most lines that its classes may have)
    "02-self-attention": ("attention-class", 15),
    "04-gpsa": ("gpsa-class", 30),
    "05-convit": ("convit-class", 40),
}


def source(chapter, name):
    cells = json.loads((ROOT / "book" / f"{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]
    (found,) = [text(cell["source"]) for cell in cells if cell["id"] == name]
    return found


def names(chapter, *more):
    """What the cell defines, run alone."""
    space = {}
    for name in (CELLS[chapter][0], *more):
        exec(source(chapter, name).split("\n\n\nstart(ours)")[0], space)
    return space


def moved(layer):
    """The layer with all of its numbers moved, so that no two heads are alike and no bias is zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return layer.double().eval()


def pair(ours, package):
    ours.double().load_state_dict(moved(package).state_dict())
    return ours, package


def equal(a, b):
    return (a - b).abs().max().item() < 1e-12


@pytest.mark.parametrize("chapter", CELLS)
def test_a_layer_fits_its_screen_and_needs_torch_alone(chapter):
    name, most = CELLS[chapter]
    code = source(chapter, name)
    lines = [line for line in code[code.index("\nclass ") :].splitlines() if line.strip()]
    assert len(lines) <= most
    assert max(map(len, code.splitlines())) <= 90  # what a page shows without scrolling
    imported = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {getattr(node, "module", None) or node.names[0].name for node in imported}
    assert modules <= {"math", "collections", "functools", "torch", "torch.nn"}


def test_self_attention():
    ours, package = pair(names("02-self-attention")["SelfAttention"](12, 3), convit_edu.SelfAttention(12, 3))
    x = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(1)).double()
    assert equal(ours(x), package(x))


@pytest.mark.parametrize("heads", [1, 4, 9])
def test_gpsa_and_its_start(heads):
    GPSA = names("04-gpsa")["GPSA"]
    ours, package = GPSA(36, heads, alpha=1.5), convit_edu.GPSA(36, heads, locality_strength=1.5)
    for name in ("pos_proj.weight", "v.weight", "gating_param"):
        assert torch.equal(ours.state_dict()[name], package.state_dict()[name]), name
    ours, package = pair(ours, package)
    x = torch.randn(2, 12, 36, generator=torch.Generator().manual_seed(1)).double()
    for grid in ((3, 4), (2, 6)):
        assert equal(ours.weights(x, grid), package.weights(x, grid))
        assert equal(ours(x, grid), package(x, grid))


@pytest.mark.parametrize("local", [0, 4, 5])
def test_convit_and_its_start(local):
    space = names("05-convit", "cell-19")
    package = convit_edu.create_model("convit_mini_28", seed=0, local_up_to_layer=local)
    ours = space["ConViT"](grid=(7, 7), p=4, C=1, D=72, H=9, L=6, L_gpsa=local, classes=10)
    space["start"](ours)
    for name, value in ours.state_dict().items():
        assert name.endswith("bias") or value.std() > 0 or "norm" in name or "gating" in name, name
        if local and name.startswith("blocks.0.attn.") and not name.endswith(("qk.weight", "proj.weight")):
            assert torch.equal(value, package.state_dict()[name]), name
        if name.endswith("pos_proj.weight"):
            assert torch.equal(value, package.state_dict()[name]), name
    ours, package = pair(ours, package)
    images = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(1)).double()
    assert equal(ours(images), package(images))
