"""The rules for pages: cells that pass, and cells with one problem each; and the program that applies them."""

import lint_book as lint
import pytest


def made_of(*cells):
    return lint.Page("a-page", [(cell.startswith("#!"), cell) for cell in cells])


def table(symbol, code):
    return made_of(f"| symbol | name in code |\n|---|---|\n| {symbol} | {code} |\n\n`not this`", "#!\nmine = 1")


GOOD = [
    (lint.names_in_code, [table("", code) for code in (
        "", "never made", "`num_heads`", "`GPSA.gating_param`, `gate()`", "`Recipe.lr`", "`locality.gates(model)`",
        "`mine[0, :]`", '`trace["blocks.l"]`', "`Estimate.n`", "`pos_proj.weight`", "`len(mine)`",
    )]),
    (lint.symbols_in_the_notation, [table(symbol, "") for symbol in (
        "$A^{l,h}$", "$Q$, $K$", "$G_h, G_w$", "$g = \\sigma(\\lambda)$", "$W_\\text{val}$", "start",
    )]),
    (lint.references, [made_of(cell) for cell in (
        "[1](04-gpsa.ipynb) [2](#here)", "`python -m convit_edu run ablation psa`", "`python benchmarks/attention.py`",
        '#!\nResults("ablation"); checkpoint("convit")',
    )]),
    (lint.numbers_of_a_machine, [made_of(cell) for cell in (
        "trained for 300 steps on 5,000 images", "**It runs in** about 30 seconds.", "a gate of 0.73 at $12 s$",
        "(★ five minutes)", "Table 2.1 on 14 × 14", "`sleep 5 s`", "3 softmaxes",
    )]),
    (lint.terms_are_linked, [made_of("#!", cell) for cell in (
        "[Patches](#patch) and patches, [GPSA](#GPSA), later gated positional self-attention, [Fig. 1](#fig-a)",
        "# Patch\n\n| patch |\n\n`patch`, $patch$, **patch**, [patch](a.md)\n\n```{tip}\npatch\n```",
        "self-attention-like, dispatch, ConViT-S, a parity",
    )]),
]  # fmt: skip

BAD = [
    (lint.names_in_code, "number_of_heads", table("", "`number_of_heads`")),
    (lint.names_in_code, "GPSA.gatingparam", table("", "`GPSA.gatingparam`")),
    (lint.names_in_code, "Recipe.nothing", table("", "`Recipe.nothing`")),
    (lint.names_in_code, "locality.gate", table("", "`locality.gate(model)`")),
    (lint.names_in_code, "no Python", table("", "`two words`")),
    (lint.symbols_in_the_notation, "no \\Omega_x", table("$\\Omega_x^h$", "")),
    (lint.references, "no record ablations", made_of('#!\nResults("ablations")')),
    (lint.references, "no checkpoint resnet", made_of('#!\ncheckpoint("resnet")')),
    (lint.references, "no experiment ablations", made_of("`python -m convit_edu run psa ablations`")),
    (lint.references, "no experiment nothing", made_of("then `run nothing`")),
    (lint.references, "no experiment sizes", made_of("the experiment `sizes`")),
    (lint.references, "no page 04-gspa.ipynb", made_of("[04](04-gspa.ipynb)")),
    (lint.references, "05 leads to chapter 04", made_of("as [chapter\n05](04-gpsa.ipynb) shows")),
    (lint.references, "no script benchmarks/none.py", made_of("`python benchmarks/none.py`")),
    *((lint.numbers_of_a_machine, "cell 0", made_of(cell)) for cell in (
        "It took 12 s.", "1,442 images/s", "in 3.5 ms", "about 30 seconds", "2.6 MB", "with PyTorch 2.5", "timm 1.0",
        "on 2026-11-23", "at 10:00", "from /home/ada/x",
    )),
    (lint.terms_are_linked, "link patch", made_of("#!", "Two patches, [patches](#patch)")),
    (lint.terms_are_linked, "link class token", made_of("#!", "a class\ntoken")),
    (lint.terms_are_linked, "link gated positional", made_of("#!", "Gated positional self-attention, [GPSA](#GPSA)")),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "pages"), GOOD, ids=lambda value: getattr(value, "__name__", ""))
def test_good_cells_pass(rule, pages):
    assert [rule(page) for page in pages] == [[]] * len(pages)


@pytest.mark.parametrize(("rule", "message", "page"), BAD, ids=lambda value: getattr(value, "__name__", ""))
def test_a_bad_cell_fails(rule, message, page):
    (problem,) = rule(page)
    assert message in problem


def test_every_rule_has_both():
    assert {rule for rule, _ in GOOD} == {rule for rule, *_ in BAD} == set(lint.RULES)


def test_a_term_is_not_linked_where_it_is_explained():
    page = made_of("#!", "two patches")
    assert lint.GLOSSARY["patch"] == ("patch", "02-self-attention")
    assert lint.first_uses(page) == [(1, 4, 11, "patch", False)]
    assert lint.first_uses(page._replace(name="02-self-attention")) == []


def test_links_are_told_apart():
    doi = "https://doi.org/10.1109/CVPR.2016.90"
    assert lint.links(["See https://a.org/b. And (https://b.org/)", doi], ["https://a.org/b", "https://b.org/"]) == []
    assert lint.links(["https://a.org"], []) == ["not listed: https://a.org"]
    assert lint.links([], ["https://a.org"]) == ["listed, not used: https://a.org"]
    assert lint.links(["https://a.org https://b.org"], ["https://b.org", "https://a.org"]) == ["not sorted"]


def test_mistakes_are_found(tmp_path):
    (tmp_path / "good").write_text("The colour of a neighbour, favoured by the centre.", encoding="utf-8")
    mistake = "We receive it.".replace("ei", "ie")  # not written out: this file is checked, too
    (tmp_path / "bad").write_text(mistake, encoding="utf-8")
    (problem,) = lint.misspelt([tmp_path / "good", tmp_path / "bad"])
    assert "receive" in problem


@pytest.mark.parametrize("planted", [[], ["04-gpsa.ipynb: not run once"]])
def test_the_program_fails_if_a_rule_is_broken(planted, monkeypatch, capsys):
    monkeypatch.setattr(lint, "problems_of_notebooks", lambda: iter(planted))
    monkeypatch.setattr(lint, "problems_of_pages", lambda: iter(()))
    assert lint.main() == bool(planted)
    assert planted == [] or planted[0] in capsys.readouterr().out
