"""The report card: complete, true to the records, and the paper's numbers where they belong."""

import json
import re

import pytest

from convit_edu.lab import claims, records
from convit_edu.lab.results import estimate


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


@pytest.mark.parametrize(("times", "verdict"), [((1.07, 1.9), "holds"), ((1.07, 2.0), "contradicted")])
def test_the_speed_row_takes_its_verdict_from_the_slowest_model(tmp_path, times, verdict):
    (tmp_path / "benchmarks").mkdir()
    rows = [
        dict(mode="training", row="convit", device="cpu", precision="float32", model="m", images_per_second=1.0,
             time_over={"deit": time})
        for time in times
    ]  # fmt: skip
    (tmp_path / "benchmarks" / "model-cpu.json").write_text(json.dumps({"rows": rows}))
    assert claims._speed(tmp_path).startswith(f"**{verdict}**")
    assert f"ours {times[0]:.2f} to {times[1]:.2f}" in claims._speed(tmp_path)
    (tmp_path / "runs").symlink_to(records.shipped() / "runs")
    assert claims._speed(tmp_path) in claims.card(tmp_path).rows[14][3]
