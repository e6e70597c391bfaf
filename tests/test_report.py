"""From records to numbers: on records in which the answers are planted."""

import dataclasses
import json
import math
import os
import shutil
from dataclasses import replace

import pytest

from convit_edu.__main__ import main
from convit_edu.book import cards
from convit_edu.lab import claims, records, report
from convit_edu.lab.claims import BOUND, CLAIMS, CONTRADICTED, HOLDS, IN_PART, OPEN, Claim, Part, parts_of, verdict
from convit_edu.lab.experiments import ARMS, NAMES, Settings, grid
from convit_edu.lab.intervals import Estimate, Missing, estimate
from convit_edu.lab.results import Results, settings, unasked
from convit_edu.lab.scales import GPU, LAPTOP
from convit_edu.lab.tables import Table

RATES = {"ConViT": 2e-3, "DeiT, equal heads": 2e-3, "DeiT, few heads": 1e-3, "CNN": 4e-3}
SETTINGS = Settings(RATES, "DeiT, equal heads", dict.fromkeys(ARMS[:3], 0.42))

# --- verdicts


def test_a_verdict_is_where_the_interval_lies():
    def one(mean, half, **options):
        return Part("", Estimate(mean, half, 5), **options).verdict

    assert one(3, 1) == one(0.2, 0.1) == HOLDS and one(-3, 1) == CONTRADICTED
    assert one(3, 4) == one(-3, 4) == one(1, 1) == one(-1, 1) == OPEN
    assert one(5, math.nan) == one(-5, math.nan) == OPEN  # a single seed
    assert one(3, 1, two_sided=True) == one(-3, 1, two_sided=True) == HOLDS and one(3, 4, two_sided=True) == OPEN


def test_a_claim_of_several_parts_holds_if_all_do_that_the_setting_leaves_open():
    parts = {"+": (3, False), "-": (-3, False), "0": (0, False), "b": (3, True)}
    wanted = {"+": HOLDS, "++": HOLDS, "-": CONTRADICTED, "--": CONTRADICTED, "0": OPEN, "00": OPEN, "-0": OPEN,
              "+0": IN_PART, "0+": IN_PART, "+-": IN_PART, "++-": IN_PART,
              "b": BOUND, "bb": BOUND, "b+": HOLDS, "b-": CONTRADICTED, "b+-": IN_PART}  # fmt: skip
    for signs, expected in wanted.items():
        made = [Part("", Estimate(mean, 1, 5), bound=bound) for mean, bound in map(parts.get, signs)]
        assert verdict(made) == expected, signs
        assert [part.verdict for part in made if part.bound] == [BOUND] * signs.count("b")


# --- synthetic records

SHIFT = (-0.2, -0.1, 0.0, 0.1, 0.2)  # by seed, the part of a difference that is not shared
HALF = 2.7764 * math.sqrt(0.025) / math.sqrt(5)  # of its 95 % interval


def advantage(name, label):
    """By how much a cell is better than its DeiT: what the claims are to find."""
    if name == "sample_efficiency":
        return {"ConViT": 6 if label["fraction"] == 0.05 else 3, "DeiT": 0, "CNN": 8}[label["arm"]]
    if name == "ablation":  # C5 contradicted; of C6 the start helps, the gates do not; the rest of it holds
        rows = {"a": 4, "b": 1, "c": -4, "d": -2, "f": 2, "g": -5, "identity values alone": -1,
                "positional start alone": -2, "DeiT, late class token": -1.5}  # fmt: skip
        return rows.get(label["row"], 0)
    if name == "locality_grid":
        return label["layers"] + 2 * math.log(label["strength"] or 1, 4)
    if name == "gates":
        return 2 if label["gates"] == "20 times the rate" else 0
    if name == "search":
        return 5 * (label["lr"] == RATES[label["arm"]]) + (label.get("gain") == 0.42)
    if name == "distillation":
        before, gain = {"ConViT": (3, 1), "DeiT": (0, 5)}[label["arm"]]
        return before + gain * (label["teacher"] == "CNN")
    if name == "recast":
        return {"recast, gates from 0.73": -2, "recast, gates from 0.95": 1, "ConViT": 2}.get(label["arm"], 0)
    if name == "starts":
        return {"ConViT": 4, "mimetic": 6, "structured": 1}.get(label["start"], 0)
    return {"ConViT": 3, "PSA": -2}.get(label.get("arm"), 0)


def accuracy(name, label, seed, after):
    """Test accuracy: shared by all arms of a seed but for the advantage; flat from half of a long training on."""
    shared = 50 + 3 * seed + 20 * (min(after, 0.5) if label.get("steps") == LAPTOP.steps else after)
    better = advantage(name, label)
    if after <= 0.125 and name in ("dynamics", "psa"):
        better = {"ConViT": 10, "PSA": 5}.get(label["arm"], 0)  # ahead early
    return shared + better + SHIFT[seed] * (better != 0)


def made(name, cell, seed):
    """A run that was never run, with everything that `report` and `claims` ask for."""
    model, recipe = cell.config.model, cell.config.recipe
    steps = [round(recipe.steps * k / recipe.evaluations) for k in range(1, recipe.evaluations + 1)]
    history = {"accuracy": {s: accuracy(name, cell.label, seed, s / recipe.steps) for s in steps}, "loss": [2.0]}
    result = {"accuracy": history["accuracy"][steps[-1]], "parameters": 1000}
    if cell.config.probe:
        depth, heads, local = model["depth"], model["num_heads"], model["local_up_to_layer"]
        end = 3.5 - 0.5 * bool(local) - 0.25 * bool(cell.config.teacher)
        history |= {
            "nonlocality": {
                s: [[(2.0 if local and not s else end) + SHIFT[seed]] * heads] * depth for s in (0, *steps)
            },
            "gates": {s: [[0.8, *[0.3] * (heads - 1)], [0.2] * heads, [0.02] * heads][:local] for s in (0, *steps)},
        }
        final = result["accuracy"]
        result["masking"] = {"absolute positions": final - (5 if local else 25) - SHIFT[seed]}
        if local:
            result["masking"] |= {"content": [final - 5, final - 10, final - 30 - SHIFT[seed]],
                                  "position": [final - 1, final - 2, final - 12]}  # fmt: skip
        result["metric"] = {"true": [[end] * heads] * depth, "shortcut": [[end - 1 - SHIFT[seed]] * heads] * depth}
    return {"result": result, "history": history, "meta": {"seconds": 1.0}}


def write(folder, name, keep=lambda run: True, fresh=False, scale=LAPTOP, settings=SETTINGS):
    """The runs of an experiment in a folder, and the search that its learning rates come from.

    A run that experiments share is planted by the first: claims that want it otherwise are tested in their own folder.
    """
    if fresh:
        shutil.rmtree(folder / "runs", ignore_errors=True)
    for each in ("search", name) if name != "search" else ("search",):
        for cell in grid(each, scale, None if each == "search" else settings):
            for seed in cell.seeds or range(5):
                wanted = each != name or keep({"label": cell.label, "seed": seed})
                if wanted and not records.path_of(folder, cell.config.identity(seed)).exists():
                    records.write(folder, cell.config, seed, made(each, cell, seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of folders: what was planted for an experiment stands in the folder of its name."""
    folder = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)  # two thousand files
        for name in NAMES:
            write(folder / name, name)
    return folder


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture
def nothing_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "shipped", lambda: tmp_path / "shipped")
    return tmp_path / "shipped"


def test_the_synthetic_search_chooses_the_settings_of_these_tests(folder):
    assert settings(LAPTOP, records.read_all(folder / "psa")) == SETTINGS


# --- results


def test_results_are_asked_by_label(folder):
    results = Results("sample_efficiency", folder=folder / "sample_efficiency")
    assert results and len(results.runs) == 60 and not results.failed
    assert len(results.labels) == 12 and results.labels[0] == {"arm": "ConViT", "fraction": 0.05, "steps": 300}
    one = dict(arm="ConViT", fraction=1.0, steps=300)
    assert list(results.select(**one)) == [0, 1, 2, 3, 4]
    assert results.accuracy(**one)[3] == pytest.approx(50 + 9 + 20 + 3 + 0.1)
    assert results.accuracy(0.5, **one)[3] == pytest.approx(50 + 9 + 10 + 3 + 0.1)
    steps, curves = results.curve(**one)
    assert steps == [round(300 * k / 8) for k in range(1, 9)] and len(curves) == 5
    assert [curve[-1] for curve in curves] == list(results.accuracy(**one).values())
    assert results.gained(**one) == pytest.approx(20 * (1 - 225 / 300), abs=0.1)
    assert results.gained(**one | {"steps": 1200}) == 0
    assert set(results.outcome("parameters", **one).values()) == {1000}
    with pytest.raises(ValueError, match="More than one run a seed of sample_efficiency at scale laptop with") as found:
        results.select(arm="ConViT")
    assert not isinstance(found.value, Missing)
    with pytest.raises(Missing, match=r"No run of sample_efficiency at scale laptop with \{'arm': 'RNN'\}"):
        results.select(arm="RNN")
    looked = Results("dynamics", folder=folder / "dynamics").measured("nonlocality", 0.0, arm="ConViT")
    assert looked[4][0][0] == pytest.approx(2.2) and len(looked[4]) == 4


def test_a_label_is_taken_before_those_that_contain_it(tmp_path):
    """At scale gpu `dynamics` has a pair {"arm"} and, on larger images, a pair {"arm", "data"}."""
    write(tmp_path, "dynamics", scale=GPU, settings=replace(SETTINGS, gains=dict.fromkeys(ARMS[:3], GPU.gains[0])))
    results = Results("dynamics", "gpu", tmp_path)
    assert len(results.runs) == 20 and "data" not in results.select(arm="DeiT")[0]["label"]
    assert results.select(arm="DeiT")[0]["config"].data == "cifar100"
    assert results.select(arm="DeiT", data="imagenette")[0]["config"].data == "imagenette"
    assert all(str(table) for table in report.tables(results))
    assert [len(parts_of(name, "gpu", tmp_path)) for name in ("C4", "C10")] == [1, 2]


def test_unknown_results_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'pas'.*did you mean psa.*search"):
        Results("pas")
    with pytest.raises(ValueError, match=r"'lptop'.*did you mean laptop.*gpu"):
        Results("psa", "lptop")
    assert not Results("psa", folder=tmp_path)


# --- tables


def test_a_table_shows_as_text_and_as_markdown():
    table = Table("Title", ["a", "column"], [["long cell", "1"], ["**b**", "22"]])
    assert str(table) == "Title\n  a          column\n  long cell  1\n  b          22" == repr(table)
    assert table._repr_markdown_() == "| a | column |\n| --- | --- |\n| long cell | 1 |\n| **b** | 22 |"
    short = Table("Title", ["a", "b", "c"], [["1", "a sentence that reaches over the rest"], ["22", "2", "3"]])
    assert str(short) == "Title\n  a   b  c\n  1   a sentence that reaches over the rest\n  22  2  3"
    assert "| 1 | a sentence that reaches over the rest |  |\n" in short._repr_markdown_()


def test_tables_show_what_was_recorded(folder):
    size = report.accuracies(Results("size", folder=folder / "size"))
    assert list(size.columns) == ["size", "arm", "test accuracy, %", "seeds"] and len(size.rows) == 6
    values = estimate(79 + 3 * seed + SHIFT[seed] - 6 for seed in range(5))
    assert size.rows[0] == ["small", "ConViT", str(values), "5"]

    efficiency = Results("sample_efficiency", folder=folder / "sample_efficiency")
    rows = {(row[0], row[1]): row[2:] for row in report.gaps(efficiency).rows}
    assert rows["5 %", "300"] == [f"+6.0 ± {HALF:.1f}", "5", "+5.0 and +5.0", "no"]
    assert rows["100 %", "1200"] == [f"+3.0 ± {HALF:.1f}", "5", "+0.0 and +0.0", "yes"]
    assert len(rows) == 4

    search = report.searched(Results("search", folder=folder / "search"))
    assert list(search.columns[:2]) == ["arm", "start"] and len(search.rows) == 3 * 3 + 1
    assert [row[1] for row in search.rows if row[0] == "ConViT"] == ["0.02", "0.42 / √n", "1 / √n"]
    best = [row for row in search.rows if any(cell.startswith("[") for cell in row)]
    assert [row[:2] for row in best] == [*([arm, "0.42 / √n"] for arm in ARMS[:3]), ["CNN", "its own"]]
    for row in best:
        (cell,) = (cell for cell in row if cell.startswith("["))
        assert search.columns[row.index(cell)] == f"{RATES[row[0]]:g}"
    assert best[0][search.columns.index("0.002")] == f"[{50 + 3 * 0.5 + 20 + 6 - 0.15:.1f}]"  # of seeds 0 and 1

    depth = report.depth_profile(Results("dynamics", folder=folder / "dynamics"))
    assert depth.rows[0][:3] == ["ConViT", "1", "2.00"] and depth.rows[0][3] == f"3.00 ± {HALF:.2f}"
    assert [row[4][:4] for row in depth.rows[:4]] == ["0.36", "0.20", "0.02", "-"] and depth.rows[4][0] == "DeiT"

    masks = report.masks(Results("masking", folder=folder / "masking")).rows
    assert [row[1] for row in masks] == [
        "nothing", "absolute positions", "content in 1 GPSA layer", "content in 2 GPSA layers",
        "content in 3 GPSA layers", "position in 1 GPSA layer", "position in 2 GPSA layers",
        "position in 3 GPSA layers", "nothing", "absolute positions",
    ]  # fmt: skip
    metric = report.metrics(Results("metric", folder=folder / "metric")).rows
    assert metric[0] == ["ConViT", "1", "3.00", "2.00", f"-1.00 ± {HALF:.2f}"] and len(metric) == 8


def test_every_experiment_has_tables_also_with_one_seed_and_without_its_deit(folder, nothing_shipped, tmp_path, capsys):
    for name in NAMES:
        write(tmp_path, name, lambda run: run["label"].get("arm") != "DeiT" and run["seed"] == 0)
        for where in (folder / name, tmp_path):
            found = report.tables(Results(name, folder=where))
            assert found and all(len(row) == len(table.columns) for table in found for row in table.rows)
    assert len(report.gaps(Results("sample_efficiency", folder=tmp_path)).rows) == 2  # `ablation` has a DeiT for these
    (run,) = Results("psa", folder=tmp_path).select(arm="PSA").values()
    records.path_of(tmp_path, run["id"]).unlink()
    records.write(tmp_path, run["config"], 0, {"error": "OSError: no more images", "meta": {}})
    assert main(["report", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "psa: 1 failed run(s): OSError: no more images" in printed and "nan" not in printed


# --- claims


TESTED = [name for name in CLAIMS if name != "C15"]  # that one is on times, and has no seeds


# claim: mean of each part, verdict on the whole
PLANTED = {
    "C1": ([3, 3, 3], HOLDS),
    "C2": ([6, 6], HOLDS),
    "C3": ([3, 3], HOLDS),
    "C4": ([7], HOLDS),
    "C5": ([-2, -2], CONTRADICTED),
    "C6": ([3, -2], IN_PART),
    "C7": ([2, 7], HOLDS),
    "C8": ([4, 3], HOLDS),
    "C9": ([5, 2, 5], HOLDS),
    "C10": ([0.5, 1.0], HOLDS),
    "C11": ([0.08, 0.3, 0.08, 0.3], HOLDS),
    "C12": ([20], HOLDS),
    "C13": ([18], HOLDS),
    "N1": ([3, 2], HOLDS),
    "N2": ([-1.5, -1.5], HOLDS),  # of two sides
    "N3": ([-1, -1], HOLDS),
    "C14": ([4, 0.25], HOLDS),
    "N5": ([-2, 1], IN_PART),
    "N6": ([-4, -1], CONTRADICTED),
    "N7": ([6, 1], HOLDS),
    "N8": ([-2, 3], IN_PART),
    "N9": ([2], HOLDS),  # of two sides
}


@pytest.mark.parametrize("name", TESTED)
def test_what_was_planted_is_found(folder, name):
    means, whole = PLANTED[name]
    parts = parts_of(name, folder=folder / CLAIMS[name].experiment)
    assert [part.found.mean for part in parts] == pytest.approx(means)
    assert verdict(parts) == whole
    assert len({part.name for part in parts}) == len(parts) and {part.found.n for part in parts} == {5}


def test_the_comparisons_that_the_setting_decides(folder, tmp_path):
    every = {name: parts_of(name, folder=folder / CLAIMS[name].experiment) for name in TESTED}
    bound = {(name, part.name) for name, parts in every.items() for part in parts if part.bound}
    gates = {("C11", f"{part}, as the rest")
             for part in ("0.1 - last layer's mean gate", "first layer's highest gate - 0.5")}  # fmt: skip
    assert bound == {("C10", "DeiT - ConViT, end")} | gates
    # A gate must fall by 3.2 in its logit: with a budget of more than that, the comparison could come out either way.
    for longer, expected in ((1.0, True), (10.0, False)):
        results = Results("gates", folder=folder / "gates")
        for run in results.runs:
            recipe = run["config"].recipe
            recipe = dataclasses.replace(recipe, lr=recipe.lr * longer)
            run["config"] = dataclasses.replace(run["config"], recipe=recipe)
        assert [part.bound for part in claims._gates(results)] == [expected, expected, False, False]
        assert claims._gates(results)[0].verdict == (BOUND if expected else HOLDS)
    assert pytest.approx(3.197, abs=1e-3) == claims.NEEDED


def test_a_part_has_a_name_a_unit_and_the_interval_of_the_paired_differences(folder):
    def parts(name):
        return parts_of(name, folder=folder / CLAIMS[name].experiment)

    small = parts("C1")[0]
    assert (small.name, small.unit, small.found.half) == ("small", "points", pytest.approx(HALF, rel=1e-3))
    assert (parts("C10")[1].name, parts("C10")[1].unit) == ("ConViT, end - start", "patches")
    assert [part.name for part in parts("C2")] == ["5 %, 300 steps", "5 %, 1200 steps"]
    assert [part.name for part in parts("C3")] == [
        "5 % against all, 300 steps", "5 % against all, 1200 steps, converged",
    ]  # fmt: skip


@pytest.mark.parametrize("name", TESTED)
def test_a_claim_that_is_recorded_in_part_is_not_judged(name, tmp_path):
    assert parts_of(name, folder=tmp_path) == []
    experiment = CLAIMS[name].experiment
    lacking = {
        "ablation": ("row", ("e", "c", "DeiT, equal heads")),  # the last is row e by another name
        "locality_grid": ("layers", (4,)), "gates": ("gates", ("20 times the rate",)),
        "recast": ("arm", ("ConViT", "CNN, trained on")), "starts": ("start", ("mimetic", "structured")),
    }  # fmt: skip
    key, values = lacking.get(experiment, ("arm", ("ConViT",)))
    write(tmp_path, experiment, lambda run: run["label"][key] not in values, fresh=True)
    assert parts_of(name, folder=tmp_path) == []
    if name not in ("C11", "C13", "N3"):  # the others compare two arms: these have no seed that both have
        write(tmp_path, experiment, lambda run: (run["label"][key] in values) == (run["seed"] < 2), fresh=True)
        assert parts_of(name, folder=tmp_path) == []


def test_one_budget_alone_is_not_compared_with_itself(tmp_path):
    write(tmp_path, "sample_efficiency", lambda run: run["label"]["steps"] == 300 or run["label"]["fraction"] == 1)
    assert parts_of("C3", folder=tmp_path) == parts_of("C2", folder=tmp_path) == []


def test_a_mistake_in_a_claim_is_not_taken_for_a_missing_record(folder, monkeypatch):
    for parts, error in ((lambda results: results.select(), ValueError), (lambda results: {}["missing"], KeyError)):
        monkeypatch.setitem(CLAIMS, "C4", Claim("wrong", "", "", "", "dynamics", parts))
        with pytest.raises(error):
            parts_of("C4", folder=folder / "dynamics")


def test_the_table_of_verdicts_states_the_claim_and_then_its_parts(folder):
    table = claims.verdicts(["ablation", "metric"], "laptop", folder / "ablation")
    assert list(table.columns) == ["claim", "compared", "difference", "95 % interval", "seeds", "verdict"]
    assert [row[0] for row in table.rows if row[0]] == ["C5", "C6", "C7", "N1", "N2", "N3"]
    rows = claims.rows_of("C6", parts_of("C6", folder=folder / "ablation"))
    assert rows[0] == ["C6", "with little data the start helps, and the gates help: **holds in part**"]
    assert rows[1] == ["", "b - d, 5 %", "+3.0 points", "+3.0 to +3.0", "5", "holds"]  # both rows shift alike
    assert rows[2][1:3] == ["c - d, 5 %", "-2.0 points"] and rows[2][5] == "contradicted"
    assert claims.rows_of("C11", parts_of("C11", folder=folder / "gates"))[1][2] == "+0.08"
    shipped = str(claims.verdicts([claim.experiment for claim in CLAIMS.values()]))
    assert max(map(len, shipped.splitlines())) <= 120 and "**" not in shipped
    assert claims.verdicts([], "laptop", folder / "psa").rows == [] == claims.verdicts(["psa"], "gpu").rows


# --- what the command line prints


def test_the_report_sets_the_readers_own_runs_beside_the_shipped(folder, nothing_shipped, tmp_path, capsys):
    own = tmp_path / "own"
    assert main(["report", "--out", str(own)]) == 2
    assert "error: Nothing is recorded" in capsys.readouterr().err
    write(nothing_shipped, "size")
    write(own, "size", lambda run: run["seed"] < 2)
    write(own, "psa")
    assert main(["report", "size", "--out", str(own)]) == 0
    printed = capsys.readouterr().out
    shipped, mine = printed.index("== Shipped with the package, scale laptop =="), printed.index("== Your own, in ")
    assert shipped < mine and "psa" not in printed
    assert printed.count("C1     ConViT is better") == 2 and "small" in printed[:mine] and "small" in printed[mine:]
    assert f"+3.0 points  +{3 - HALF:.1f} to +{3 + HALF:.1f}" in printed[:mine]
    assert main(["report", "--scale", "gpu", "--out", str(own)]) == 2
    assert main(["report", "szie"]) == main(["report", "--scale", "lapto"]) == 2
    error = capsys.readouterr().err
    assert "'szie' (did you mean size?)" in error and "'lapto' (did you mean laptop?)" in error


def test_the_list_counts_runs_and_the_hours_they_took(nothing_shipped, tmp_path, capsys):
    write(nothing_shipped, "size")
    write(tmp_path, "size", lambda run: run["seed"] < 2)
    assert main(["list", "--out", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert "laptop 30" in lines["size"] and "laptop 12" in lines["size"] and "Table 1: equal pairs" in lines["size"]
    assert set(NAMES) <= set(lines) and "speed" in lines and "laptop" not in lines["locality_grid"]


def test_runs_that_no_experiment_asks_for_are_counted_and_kept(nothing_shipped, tmp_path, capsys):
    write(tmp_path, "size")
    config = grid("size", LAPTOP, SETTINGS)[0].config
    later = dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, weight_decay=0.3))
    for seed in (0, 1):
        records.write(tmp_path, later, seed, made("size", grid("size", LAPTOP, SETTINGS)[0], seed))
    assert unasked(tmp_path) == sorted(later.identity(seed) for seed in (0, 1))
    for what in ("list", "report"):
        assert main([what, "--out", str(tmp_path)]) == 0
        assert f"2 run(s) in {tmp_path} belong to no experiment" in capsys.readouterr().out
    assert len(Results("size", folder=tmp_path).runs) == 30


def timed_rows(over, mode="training", **shared):
    """Rows of a benchmark, with the time of each; plain attention takes 1. Quartiles are a tenth to either side."""
    shared = {"mode": mode, "device": "cpu", "precision": "float32", "compiled": False} | shared
    plain = ("deit", "timm_deit", "timm_attention")
    return [
        shared | {"row": row, "low": time - 0.1, "high": time + 0.1, "time_over": dict.fromkeys(plain, time)}
        for row, time in (over | dict.fromkeys(plain, 1.0)).items()
    ]


def benchmarked(folder, **records):
    (folder / "benchmarks").mkdir()
    for name, rows in records.items():
        (folder / "benchmarks" / f"{name.replace('_', '-')}.json").write_text(json.dumps({"rows": rows}))
    return folder


def test_speed_is_a_view_of_the_benchmarks():
    *measured, claim = claims.speeds().rows
    assert {row[2] for row in measured} >= {"convit_tiny", "convit_small", "convit_base", "a layer, Ti", "a layer, S"}
    assert claim[0] == "C15" and "**holds on a CPU, holds in part on a GPU**" in claim[1]


@pytest.mark.parametrize(
    ("fast", "timms", "readable", "verdict"),
    [(1.0, 1.5, 1.3, "holds on a CPU"), (1.0, 1.5, 1.15, "holds in part on a CPU"),  # 1.1 is not below 1.05
     (1.4, 1.5, 1.3, "holds in part on a CPU"), (1.6, 1.5, 1.3, "holds in part on a CPU")],
)  # fmt: skip
def test_the_fast_form_must_beat_every_other_beyond_the_quartiles(tmp_path, fast, timms, readable, verdict):
    forms = {"gpsa": fast, "timm_gpsa": timms, "gpsa_readable": readable}
    layer = timed_rows(forms, "forward", size="Ti", grid=[14, 14])
    elsewhere = timed_rows(forms | {"gpsa": 9}, "forward", size="Ti", grid=[7, 7])
    model = timed_rows({"convit": 1.0, "timm_convit": 2.0}, model="m")
    folder = benchmarked(tmp_path, model_cpu=model, attention_cpu=layer + elsewhere)
    *rows, claim = claims.speeds(folder).rows
    assert [row[2:] for row in rows] == [
        ["m", "training", "-", "2.00", "1.00"],
        ["a layer, Ti", "inference", f"{readable:.2f}", f"{timms:.2f}", f"{fast:.2f}"],
    ]
    assert f"**{verdict}**" in claim[1]


def test_a_verdict_on_speed_says_where_it_was_timed_and_can_be_lost(tmp_path):
    slow, fast = ({"convit": time, "timm_convit": 2.0} for time in (2.0, 1.0))
    folder = benchmarked(tmp_path, model_cuda=timed_rows(slow, model="m", device="cuda"))
    assert claims.speed_verdict(claims.timed(folder)) == "contradicted on a GPU"
    (folder / "benchmarks" / "model-cpu.json").write_text(json.dumps({"rows": timed_rows(fast, model="m")}))
    assert claims.speed_verdict(claims.timed(folder)) == "holds on a CPU, contradicted on a GPU"


def test_the_card_has_a_line_for_either_step_on_every_device(tmp_path):
    rows = [
        row
        for mode, shift in (("inference", 0.0), ("training", 0.5))
        for model, slow in (("m", 2.0), ("n", 3.0))
        for row in timed_rows({"convit": 1 + shift, "timm_convit": slow + shift}, mode, model=model, device="cuda")
    ]
    found = claims.card(benchmarked(tmp_path, model_cuda=rows))
    assert found.groups[HOLDS] == ["C15"]
    assert claims.speed_lines(found.speed) == [
        "inference on a GPU, ConViT's time over DeiT's: timm's form 2.00 to 3.00, fast form 1.00 to 1.00",
        "training on a GPU, ConViT's time over DeiT's: timm's form 2.50 to 3.50, fast form 1.50 to 1.50",
    ]
    assert "<i>✓</i> holds on a GPU</span> <b>C15</b>" in cards.show(found).body
