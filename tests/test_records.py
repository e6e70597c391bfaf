"""Records: what is written is what is read, and whatever is wrong with a file is said in a sentence."""

import errno
import json
import os
from dataclasses import replace

import pytest
import torch

from convit_edu import create_model, data
from convit_edu.lab import records
from convit_edu.lab.experiments import NAMES
from convit_edu.lab.records import RecordError
from convit_edu.lab.results import Results, cells_of, unasked
from convit_edu.lab.run_config import RunConfig
from convit_edu.lab.scales import COLOUR, LAPTOP
from convit_edu.train import Recipe, evaluate

CONFIG = RunConfig(data="fashion_mnist_5k", model={"embed_dim": 36, "num_heads": 9}, recipe=Recipe(steps=4))
ANSWER = {"result": {"accuracy": 61.5}, "history": {"accuracy": {4: 61.5}, "loss": [2.3, 1 / 3]},
          "meta": {"seconds": 1.5}}  # fmt: skip
FAILED = {"error": "ValueError: no", "meta": {}}


@pytest.fixture
def folder(tmp_path):
    for seed in (0, 1):
        records.write(tmp_path, CONFIG, seed, ANSWER)
    return tmp_path


def path_of(folder, seed=1):
    return records.path_of(folder, CONFIG.identity(seed))


def test_what_is_written_is_what_is_read(folder):
    records.write(folder, CONFIG, 2, FAILED)
    found = records.read_all(folder)
    assert set(found) == {CONFIG.identity(seed) for seed in (0, 1, 2)}
    run = found[CONFIG.identity(1)]
    assert run["config"] == CONFIG and run["seed"] == 1 and run["meta"] == {"seconds": 1.5}
    assert run["history"] == {"accuracy": {"4": 61.5}, "loss": [2.3, 1 / 3]} and run["result"] == ANSWER["result"]
    assert found[CONFIG.identity(2)]["error"] == FAILED["error"]
    assert len(path_of(folder).read_text().splitlines()) == 1
    assert [path.name for path in path_of(folder).parent.iterdir() if path.suffix != ".json"] == []
    assert records.read_all(folder / "never written") == {}


def test_a_finished_run_is_never_overwritten_and_a_failed_one_is(folder):
    before = path_of(folder).read_bytes()
    with pytest.raises(ValueError, match=CONFIG.identity(1)):
        records.write(folder, CONFIG, 1, FAILED)
    assert path_of(folder).read_bytes() == before
    records.write(folder, CONFIG, 2, FAILED)
    records.write(folder, CONFIG, 2, ANSWER)
    assert records.read_all(folder)[CONFIG.identity(2)]["result"] == ANSWER["result"]


def test_identity_depends_on_configuration_and_seed_alone():
    name, text = CONFIG.identity(0), CONFIG.as_json()
    turned = {key: text[key] for key in reversed(text)}
    assert name == RunConfig.from_json(turned).identity(0) and len(name) == 16
    others = [replace(CONFIG, data="cifar100"), replace(CONFIG, recipe=Recipe(steps=4, lr=2e-3)),
              replace(CONFIG, teacher=CONFIG), replace(CONFIG, start=CONFIG)]  # fmt: skip
    assert len({name, CONFIG.identity(1), *(other.identity(0) for other in others)}) == 6
    assert replace(CONFIG, recipe=Recipe(steps=4, seed=3)).identity(0) == name  # the seed is the run's


def test_a_run_that_two_machines_have_done_differently_is_named_with_both_files(folder):
    twin = path_of(folder).with_name(f"{CONFIG.identity(1)} (copy).json")
    twin.write_text(path_of(folder).read_text().replace("61.5", "62.5"))
    with pytest.raises(RecordError) as found:
        records.read_all(folder)
    said = str(found.value)
    assert str(twin) in said and f"{CONFIG.identity(1)}.json" in said and "62.5" in said and "61.5" in said


def edited(**fields):
    def edit(text):
        return json.dumps(json.loads(text) | fields)

    return edit


def without(field):
    return lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != field})


HISTORY = ANSWER["history"]
DAMAGE = {  # what is done to the file of a run, and what the sentence must name beside the file
    "cut in half": (lambda text: text[: len(text) // 2], "delete"),
    "a list": (lambda text: "[1, 2]", "delete"),
    "very deep": (lambda text: "[" * 100_000, "delete"),
    "another program's": (lambda text: '{"rows": []}', "config"),
    "result alone": (edited(result={"accuracy": 99.9}), "99.9"),
    "accuracy beyond 100": (lambda text: text.replace("61.5", "161.5"), "accuracy"),
    "NaN": (lambda text: text.replace("1.5}}", "NaN}}"), "NaN"),
    "no loss": (edited(history=HISTORY | {"loss": []}), "loss"),
    "an evaluation after the last step": (edited(history=HISTORY | {"accuracy": {"4": 61.5, "9": 1.0}}), "accuracy"),
    "seed": (edited(seed=7), CONFIG.identity(7)),
    "seed of words": (edited(seed="one"), "seed"),
    "configuration": (edited(config=replace(CONFIG, fraction=0.5).as_json()), "name"),
    "configuration of a later version": (edited(config=CONFIG.as_json() | {"shiny": True}), "shiny"),
    "result and error": (edited(error="no"), "error"),
    "no result": (without("result"), "result"),
    "no meta": (without("meta"), "meta"),
    "no configuration": (without("config"), "config"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_bad_record_is_named_and_left_as_it_is(folder, damage):
    edit, named = DAMAGE[damage]
    path = path_of(folder)
    bad = edit(path.read_text())
    assert bad != path.read_text()
    path.write_text(bad)
    with pytest.raises(RecordError, match=named) as found:
        records.read_all(folder)
    assert str(path) in str(found.value) and "\n" not in str(found.value)
    assert path.read_text() == bad


def test_several_bad_records_are_counted(folder):
    for seed in (0, 1):
        path_of(folder, seed).write_text("")
    with pytest.raises(RecordError, match=r"1 more"):
        records.read_all(folder)


def test_what_is_no_record_is_let_alone(folder):
    for name in (".hidden.json", "notes.txt", f"{CONFIG.identity(5)}.json.tmp"):
        (folder / "runs" / name).write_text("nonsense")
    assert len(records.read_all(folder)) == 2


def test_a_run_that_changes_on_the_disk_is_read_again(folder):
    assert len(records.read_all(folder)) == 2
    path_of(folder).unlink()
    assert len(records.read_all(folder)) == 1
    records.write(folder, CONFIG, 1, {**ANSWER, "meta": {"seconds": 99}})
    assert records.read_all(folder)[CONFIG.identity(1)]["meta"] == {"seconds": 99}


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(folder, where, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = dict(records.read_all(folder))
    monkeypatch.setattr(os, where, full)
    with pytest.raises(RecordError, match=r"the disk is full.*--out") as found:
        records.write(folder, CONFIG, 2, ANSWER)
    assert str(path_of(folder, 2)) in str(found.value)
    assert dict(records.read_all(folder)) == before
    assert len(list((folder / "runs").iterdir())) == 2


def test_a_trial_leaves_an_empty_folder(tmp_path):
    records.try_to_write(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder" / "runs").iterdir()) == []


def test_the_home_folder_is_understood(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    records.write("~/mine", CONFIG, 0, ANSWER)
    assert len(records.read_all("~/mine")) == 1 == len(records.read_all(tmp_path / "mine"))


# --- checkpoints


@pytest.fixture
def model():
    return create_model("convit_mini_28", seed=0, embed_dim=36, depth=2, local_up_to_layer=1)


def test_a_checkpoint_comes_back_as_the_same_model_up_to_half_precision(model, tmp_path):
    content = records.weights_bytes(model, "an id")
    records.write_bytes(tmp_path / "laptop" / "convit.safetensors", content)
    assert len(content) < 2.1 * sum(p.numel() for p in model.parameters()) + 4000
    found = records.checkpoint("convit", folder=tmp_path)
    assert found.config == model.config and not found.training and found.pos_embed.dtype == torch.float32
    for name, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], value.half().float()), name
    images = data.load("fashion_mnist_5k").test_images[:50] / 255
    with torch.no_grad():
        torch.testing.assert_close(found(images), model.eval()(images), atol=2e-3, rtol=0)


def test_a_missing_or_damaged_checkpoint_is_named(model, tmp_path):
    path = tmp_path / "laptop" / "deit.safetensors"
    with pytest.raises(RecordError, match=r"There is no checkpoint .*make it with: convit-edu run check"):
        records.checkpoint("deit", folder=tmp_path)
    content = records.weights_bytes(model, "an id")
    from safetensors.torch import save

    for bad in (b"", content[: len(content) // 2], save({"a": torch.zeros(1)}), save({}, {"convit_edu": "{}"})):
        records.write_bytes(path, bad)
        with pytest.raises(RecordError, match=r"deit\.safetensors is no readable checkpoint .*delete it to") as found:
            records.checkpoint("deit", folder=tmp_path)
        assert "\n" not in str(found.value) and path.read_bytes() == bad


def test_a_shipped_search_that_cannot_be_read_is_not_called_missing(tmp_path, monkeypatch):
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    records.write_bytes(records.path_of(shipped, "0" * 16), b"{")
    monkeypatch.setattr(records, "shipped", lambda: shipped)
    for ask in (lambda: Results("psa", folder=own), lambda: unasked(own)):
        with pytest.raises(RecordError, match=str(shipped)):
            ask()


# --- what comes with the package


SHIPPED = [(LAPTOP, name) for name in NAMES]
SHIPPED += [(COLOUR, name) for name in ("search", "sample_efficiency", "dynamics", "masking", "metric")]


@pytest.mark.parametrize(("scale", "name"), SHIPPED, ids=lambda each: getattr(each, "name", each))
def test_what_is_shipped_is_the_present_grid_with_all_its_seeds(scale, name):
    results = Results(name, scale.name)
    assert not [run["error"] for run in results.failed]
    for cell in cells_of(name, scale, records.read_all(records.shipped())):
        seeds = [run["seed"] for run in results.runs if run["label"] == cell.label]
        assert set(cell.seeds_at(scale)) <= set(seeds) and len(set(seeds)) == len(seeds), cell.label


def test_everything_that_is_shipped_is_asked_for_and_in_its_shortest_form():
    assert unasked(records.shipped()) == [] and len(records.read_all(records.shipped())) > 300
    for path in (records.shipped() / "runs").iterdir():
        run = json.loads(path.read_text())
        assert list(run) == ["config", "seed", "result", "history", "meta"]
        assert path.read_text() == json.dumps(run, separators=(",", ":")) + "\n"


def test_what_is_shipped_is_small():
    size = {path: path.stat().st_size for path in records.shipped().rglob("*") if path.is_file()}
    assert sum(size.values()) < 5.5e6
    assert sum(bytes for path, bytes in size.items() if path.suffix == ".safetensors") < 4e6
    assert all(bytes < 25_000 for path, bytes in size.items() if path.parent.name == "runs")


@pytest.mark.parametrize("arm", ["ConViT", "DeiT"])
def test_a_shipped_checkpoint_scores_what_its_record_says(arm):
    (run,) = Results("checkpoints").select(arm=arm).values()
    model = records.checkpoint(arm.lower())
    assert evaluate(model, data.load("fashion_mnist_5k"), "cpu") == pytest.approx(run["result"]["accuracy"], abs=0.5)
    assert model.config["local_up_to_layer"] == run["config"].model["local_up_to_layer"]
