"""The report card: complete, true to the records, and the paper's numbers where they belong."""

import json
import re

import pytest

from convit_edu.lab import claims, records
from convit_edu.lab.intervals import estimate


@pytest.mark.parametrize("name", claims.CLAIMS)
def test_the_papers_differences_are_the_numbers_that_are_shown(name):
    source = claims.CLAIMS[name]
    for value in source.differences.values():
        assert re.search(rf"\+{re.escape(f'{value:.1f}')}(?!\d)|\+{value:g}(?![\d.])", source.said)


@pytest.mark.parametrize("name", claims.CLAIMS)
def test_a_difference_of_the_paper_belongs_to_one_of_our_comparisons_at_least(name):
    """A comparison that was renamed would lose its mark in the figure."""
    source, parts = claims.CLAIMS[name], claims.parts_of(name)
    if source.differences:
        assert any(source.difference(part.name) is not None for part in parts)


def test_a_difference_is_found_by_first_or_last_words_only():
    source = claims.Claim("", "Table 2", "", "08", "psa", list, {"5 %": 13.0, "GPSA layers": 2.6})
    assert source.difference("5 %, 300 steps") == 13.0
    assert source.difference("4 - 1 GPSA layers") == 2.6
    assert source.difference("25 %, 300 steps") is None


def test_the_card_shows_what_the_claims_module_finds(monkeypatch):
    table = claims.card()
    by_name = {re.sub(r"\[(\w+)\].*", r"\1", row[0]): row for row in table.rows}
    assert list(by_name) == list(claims.CLAIMS)
    parts = claims.parts_of("C12")
    assert f"**{claims.verdict(parts)}**" in by_name["C12"][3]
    assert f"{parts[0].found.mean:+.1f} ({parts[0].found.low:+.1f} to {parts[0].found.high:+.1f})" in by_name["C12"][3]
    assert claims.parts_of("C14") and "gain of DeiT - gain of ConViT" in by_name["C14"][3]
    with monkeypatch.context() as patch:
        patch.setattr(claims, "parts_of", lambda name, *where: [] if name == "C14" else parts)
        by_name = {row[0].partition("]")[0][1:]: row for row in claims.card().rows}
    assert by_name["C14"][3] == "not measured" != by_name["C13"][3]
    assert "5 seeds" in table.columns[3]


def test_one_seed_has_no_interval():
    found = claims.Part("a - b", estimate([1.25]), "patches")
    assert claims._measured([found]) == "**open**<br>a - b: +1.25 patches"


def test_nothing_recorded_leaves_the_papers_side(tmp_path):
    table = claims.card(tmp_path)
    assert table.columns == ["claim", "statement", "the paper"]
    assert len(table.rows) == len(claims.CLAIMS)


def test_the_speed_row_shows_both_modes_and_where_it_was_timed(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    rows = [
        dict(mode=mode, row=row, device="cuda", precision="float32", model=model, compiled=False, low=over - 0.1,
             high=over + 0.1, time_over={plain: over})
        for mode, shift in (("inference", 0.0), ("training", 0.5))
        for model, slow in (("m", 2.0), ("n", 3.0))
        for row, plain, over in (("convit", "deit", 1.0 + shift), ("timm_convit", "timm_deit", slow + shift))
    ]  # fmt: skip
    (tmp_path / "benchmarks" / "model-cuda.json").write_text(json.dumps({"rows": rows}))
    shown = claims._speed(tmp_path)
    assert shown.startswith("**holds on a GPU**<br>") and shown.endswith("no seeds")
    assert "inference, ConViT's time over DeiT's: timm's form 2.00 to 3.00, fast form 1.00 to 1.00" in shown
    assert "training, ConViT's time over DeiT's: timm's form 2.50 to 3.50, fast form 1.50 to 1.50" in shown
    (tmp_path / "runs").symlink_to(records.shipped() / "runs")
    assert shown in claims.card(tmp_path).rows[14][3]
    assert "on a CPU" in claims._speed(None) and "GPU" not in claims._speed(None)  # what is shipped so far


def test_what_the_setting_decides_is_shown_as_such():
    found = claims.parts_of("C11")
    assert claims._measured(found).startswith(f"**{claims.BOUND}**")
    assert f"{found[0].found.mean:+.2f}" in claims._measured(found)
