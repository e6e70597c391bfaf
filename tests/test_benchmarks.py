"""The benchmarks run, their records are complete and consistent, an interrupt leaves none. Nothing about speed."""

import argparse
import json

import pytest
import torch
from loading import ROOT, module_at

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def load(name):
    """A file of benchmarks/ as a module, as `python benchmarks/NAME.py` would load it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return module_at(f"benchmarks/{name}.py")


FEW = ["--device", "cpu", "--rounds", "2", "--batch", "1"]
SMALL = {
    "attention": ["--size", "Ti", "--grid", "7", "14", "--full", *FEW],
    "model": ["--model", "convit_tiny", "--mode", "inference", *FEW],
    "training": ["--model", "convit_mini_28", *FEW],
}


@pytest.mark.parametrize("name", SMALL)
def test_the_record_is_complete_and_its_ratios_are_those_of_its_medians(name, tmp_path, capsys, monkeypatch):
    script = load(name)
    monkeypatch.setattr(script.harness, "memory_limit", lambda device: 1e6)  # too little for matrices of 14 x 14
    path = tmp_path / "new folder" / "record.json"
    assert script.main([*SMALL[name], "--out", str(path)]) == 0
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]  # no temporary file stays
    record = json.loads(path.read_text())
    assert record["schema"] == 1 and record["name"] == name
    for key in ("date", "command", "commit", "torch", "timm", "processor", "threads", "gpu"):
        assert key in record["meta"]
    cases = {}
    for row in record["rows"]:
        case = str([row.get(key) for key in ("mode", "precision", "grid")])
        cases.setdefault(case, {})[row["row"]] = row
    for case, rows in cases.items():
        assert len(rows) == (5 if name == "attention" else 2 if "loop" in case else 4)
        for row in rows.values():
            if row.get("grid") == [14, 14] and row["row"] in ("gpsa_readable", "timm_gpsa"):
                assert "would need" in row["skipped"] and "seconds" not in row
                continue
            assert 0 < row["low"] <= row["seconds"] <= row["high"]
            assert row["rounds"] == 2 and row["images_per_second"] == row["batch"] / row["seconds"]
            assert ("peak_bytes" in row) == (row["mode"] == "training")
            assert row["time_over"]
            for other, ratio in row["time_over"].items():
                assert ratio == row["seconds"] / rows[other]["seconds"]
    assert len(cases) == {"attention": 8, "model": 1, "training": 2}[name]
    printed = capsys.readouterr().out
    assert "quartiles" in printed and "images/s" in printed and f"Wrote {path}" in printed


def test_an_interrupt_leaves_the_old_record(tmp_path, capsys, monkeypatch):
    script, path = load("training"), tmp_path / "record.json"
    path.write_text("old")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(script.harness, "interleaved", stop)  # Ctrl-C while measuring
    assert script.main([*SMALL["training"], "--out", str(path)]) == 130
    assert "Stopped" in capsys.readouterr().err

    monkeypatch.setattr(script.harness.os, "fsync", stop)  # Ctrl-C while writing
    with pytest.raises(KeyboardInterrupt):
        script.harness.write_record(path, {"rows": []})
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", SMALL)
def test_a_selection_does_not_replace_the_record(name, monkeypatch, tmp_path):
    script = load(name)
    monkeypatch.setattr(script.harness, "RECORDS", tmp_path)
    monkeypatch.setattr(script.harness, "measure_all", lambda *_: [])
    assert script.main(SMALL[name]) == 0
    assert not list(tmp_path.iterdir())
    assert script.main(["--device", "cpu"]) == 0
    assert [file.name for file in tmp_path.iterdir()] == [f"{name}-cpu.json"]


@pytest.mark.parametrize("bad", [["--batch", "0"], ["--size", "XL"], ["--device", "abacus"], ["--size", "B"]])
def test_bad_options_are_named(bad, capsys):
    with pytest.raises(SystemExit):
        load("attention").main(bad)
    error = capsys.readouterr().err
    assert bad[0] in error or "leave no case" in error


def test_every_round_goes_round_all_rows():
    harness = load("harness")
    calls = []
    options = argparse.Namespace(rounds=3, seconds=0)
    rows = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = harness.interleaved(rows, "cpu", options)
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3, "c": 3}
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"  # one to warm up, then three rounds
    options.rounds = None
    assert len(harness.interleaved(rows, "cpu", options)["a"]) == harness.FEWEST


def test_peak_memory_counts_what_is_alive_at_one_time():
    harness = load("harness")
    megabyte = torch.ones(1 << 18)  # made before: does not count

    def call():
        first = megabyte + 1
        del first
        second = megabyte + 1
        third = (second * 2).view(-1).add_(1)  # a view and an operation in place take nothing
        return third

    assert harness.peak_memory(call, "cpu") == 2 << 20


def test_memory_of_a_training_step_is_linear_in_the_number_of_patches():
    """Twice the side is four times the patches, and at most 4.5 times the memory."""
    harness = load("harness")
    from convit_edu import GPSA

    layer = GPSA(192, 4)

    def peak(side):
        x = torch.randn(1, side * side, 192).requires_grad_()
        return harness.peak_memory(lambda: layer(x).sum().backward(), "cpu")

    assert 3.5 < peak(64) / peak(32) < 4.5


def test_rows_that_cannot_run_say_why(monkeypatch):
    attention = load("attention")
    case = attention.Case("Ti", (48, 80), "training", "float32", "cpu", False, 1)
    assert attention.skipped(case, "timm_gpsa") == "takes square grids only"
    monkeypatch.setattr(attention.harness, "memory_limit", lambda device: 1e9)
    assert "would need about 2.4 GB" in attention.skipped(case, "gpsa_readable")
    assert attention.skipped(case, "gpsa") is None


def test_time_on_a_gpu_counts_once_where_kernels_overlap():
    harness = load("training").harness
    assert harness.covered([]) == 0
    assert harness.covered([(5, 7), (0, 2), (1, 3), (5, 6)]) == 5
