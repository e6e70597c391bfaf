"""Records: what is written is what is read, and whatever is wrong with a file is said in a sentence."""

import errno
import json
import os
import subprocess
import sys

import pytest
import torch

from convit_edu import create_model, data
from convit_edu.lab import records
from convit_edu.lab.experiments import NAMES, choose, grid
from convit_edu.lab.records import RecordError
from convit_edu.lab.scales import LAPTOP, SCALES
from convit_edu.train import evaluate

CONFIG = {"data": "fashion_mnist_5k", "recipe": {"lr": 1e-3, "steps": 4}}


def a_run(seed=0, **changes):
    run = {
        "id": records.identity(CONFIG, seed), "label": {"arm": "ConViT"}, "seed": seed, "config": CONFIG,
        "result": {"accuracy": 61.5}, "history": {"accuracy": {4: 61.5}, "loss": [2.3, 1 / 3]},
        "meta": {"seconds": 1.5},
    }  # fmt: skip
    return records.sealed(run | changes)


@pytest.fixture
def path(tmp_path):
    path = records.path_of(tmp_path, "laptop", "psa")
    records.write(path, "psa", "laptop", [a_run(0), a_run(1)])
    return path


def test_what_is_written_is_what_is_read(path):
    failed = {key: value for key, value in a_run(2, error="ValueError: no").items() if key not in ("result", "history")}
    runs = [a_run(0), a_run(1), records.sealed(failed)]
    records.write(path, "psa", "laptop", runs)
    assert records.read(path) == runs
    assert runs[0]["history"]["accuracy"] == {"4": 61.5} and runs[0]["history"]["loss"][1] == 1 / 3
    record = json.loads(path.read_text())
    assert (record["schema"], record["name"], record["scale"]) == (1, "psa", "laptop")
    assert len(path.read_text().splitlines()) == 3 + 2  # a line a run
    records.write(path, "psa", "laptop", [])
    assert records.read(path) == [] == records.read(path.with_name("never_written.json"))


def test_identity_depends_on_configuration_and_seed_alone():
    name = records.identity(CONFIG, 0)
    turned = {"recipe": {"steps": 4, "lr": 1e-3}, "data": "fashion_mnist_5k"}
    assert name == records.identity(turned, 0) == a_run(label={"arm": "DeiT"}, meta={})["id"] and len(name) == 16
    others = [CONFIG | {"data": "cifar100"}, CONFIG | {"recipe": CONFIG["recipe"] | {"lr": 2e-3}}]
    assert len({name, records.identity(CONFIG, 1), *(records.identity(other, 0) for other in others)}) == 4


def change(**fields):
    """A hand that edits the second run of a record and nothing else."""

    def edit(text):
        record = json.loads(text)
        record["runs"][1] |= fields
        return json.dumps(record)

    return edit


def without(field):
    def edit(text):
        record = json.loads(text)
        del record["runs"][1][field]
        return json.dumps(record)

    return edit


EDITED = r"run .* \({'arm': .*}, seed .*\) was changed after it was recorded; take that line from a backup"
NOT_WHOLE = "holds a run that is not whole; delete the file"
DAMAGE = {
    "cut in half": (lambda text: text[: len(text) // 2], "is no readable record .*delete it to make it again"),
    "empty": (lambda text: "", "is no readable record"),
    "newer": (lambda text: text.replace('"schema": 1', '"schema": 2'), "has schema 2.*reads up to 1; install a newer"),
    "a list": (lambda text: "[1, 2]", "is not a record of this package; give another folder, or move"),
    "another program's": (lambda text: '{"rows": []}', "is not a record of this package"),
    "no list of runs": (lambda text: text.replace('"runs"', '"walks"'), "holds no list of runs"),
    "result": (change(result={"accuracy": 99.9}), EDITED),
    "history": (change(history={}), EDITED),
    "label": (change(label={"arm": "DeiT"}), EDITED),
    "meta": (change(meta={"seconds": 0.1}), EDITED),
    "seed": (change(seed=7), EDITED),
    "configuration": (change(config=CONFIG | {"fraction": 0.5}), EDITED),
    "configuration and digest": (change(**a_run(1, config=CONFIG | {"fraction": 0.5})), EDITED),
    "no digest": (without("digest"), NOT_WHOLE),
    "no result": (without("result"), NOT_WHOLE),
    "no run": (lambda text: '{"schema": 1, "runs": [3]}', NOT_WHOLE),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_bad_record_is_named_and_left_as_it_is(path, damage):
    edit, sentence = DAMAGE[damage]
    bad = edit(path.read_text())
    assert bad != path.read_text()
    path.write_text(bad)
    with pytest.raises(RecordError, match=sentence) as found:
        records.read(path)
    assert str(path) in str(found.value) and "\n" not in str(found.value)
    assert path.read_text() == bad


def test_a_run_may_be_taken_out_by_hand(path):
    record = json.loads(path.read_text())
    del record["runs"][0]
    path.write_text(json.dumps(record, indent=4))
    assert records.read(path) == [a_run(1)]


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_record(path, where, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(os, where, full)
    with pytest.raises(RecordError, match=r"could not be written \(the disk is full\); what was recorded before is"):
        records.write(path, "psa", "laptop", [a_run(0)])
    assert path.read_bytes() == before and [file.name for file in path.parent.iterdir()] == ["psa.json"]


def test_a_folder_that_cannot_be_one_is_named(path):
    with pytest.raises(RecordError, match=r"could not be written .* give another folder with --out"):
        records.write(path / "psa.json", "psa", "laptop", [])
    with pytest.raises(RecordError, match=r"cannot be written .* give another folder with --out"):
        with records.only_writer(path):
            pass
    with pytest.raises(RecordError, match="is no readable record"):
        records.read(path.parent)
    assert records.read(path) == [a_run(0), a_run(1)]


HOLD = """
import sys, time
from convit_edu.lab import records
with records.only_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_writer_is_refused_until_the_first_is_gone_even_if_killed(tmp_path):
    folder = tmp_path / "new" / "laptop"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    with holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(RecordError, match=r"Another process is writing to .*laptop; wait for it, stop it, or"):
                with records.only_writer(folder):
                    pass
        finally:
            holder.kill()  # SIGKILL: it has no time to tidy up
    with records.only_writer(folder):
        pass


# --- checkpoints


@pytest.fixture
def model():
    return create_model("convit_mini_28", seed=0, embed_dim=36, depth=2, local_up_to_layer=1)


def test_a_checkpoint_comes_back_as_the_same_model_up_to_half_precision(model, tmp_path):
    content = records.checkpoint_bytes(model, "an id")
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
    with pytest.raises(RecordError, match=r"There is no checkpoint .*make it with: python -m convit_edu run check"):
        records.checkpoint("deit", folder=tmp_path)
    content = records.checkpoint_bytes(model, "an id")
    from safetensors.torch import save

    for bad in (b"", content[: len(content) // 2], save({"a": torch.zeros(1)}), save({}, {"convit_edu": "{}"})):
        records.write_bytes(path, bad)
        with pytest.raises(RecordError, match=r"deit\.safetensors is no readable checkpoint .*delete it to") as found:
            records.checkpoint("deit", folder=tmp_path)
        assert "\n" not in str(found.value) and path.read_bytes() == bad


# --- what comes with the package


def shipped(name, scale="laptop"):
    path = records.path_of(records.shipped(), scale, name)
    assert path.is_file(), f"{path} is missing; make it with: make experiments"
    return records.read(path)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shipped_is_the_present_grid_with_all_its_seeds(name):
    settings = None if name == "search" else choose(shipped("search"), LAPTOP)
    cells = grid(name, LAPTOP, settings)
    runs = shipped(name)
    stale = [run["label"] for run in runs if (run["label"], run["config"]) not in [(c.label, c.config) for c in cells]]
    assert not stale
    assert not [run["error"] for run in runs if "error" in run]
    for cell in cells:
        least = set(range(5)) if cell.seeds is None else set(cell.seeds)
        seeds = [run["seed"] for run in runs if run["label"] == cell.label]
        assert least <= set(seeds) and len(set(seeds)) == len(seeds), cell.label


def test_every_shipped_record_is_readable_and_of_a_present_grid():
    for path in records.shipped().glob("*/*.json"):
        if path.parent.name == "benchmarks":
            continue
        name, scale = path.stem, SCALES[path.parent.name]
        cells = grid(name, scale, None if name == "search" else choose(shipped("search", scale.name), scale))
        known = [(cell.label, cell.config) for cell in cells]
        assert not [run["label"] for run in records.read(path) if (run["label"], run["config"]) not in known], path


def test_a_configuration_and_seed_have_one_result_wherever_they_are_shipped():
    found = {}
    for scale in SCALES:
        for name in NAMES:
            for run in records.read(records.path_of(records.shipped(), scale, name)):
                kept = {key: run.get(key) for key in ("result", "history", "meta")}
                assert found.setdefault(run["id"], kept) == kept, (name, run["label"])


def test_what_is_shipped_is_small():
    size = {path: path.stat().st_size for path in records.shipped().rglob("*") if path.is_file()}
    assert sum(size.values()) < 5e6
    assert sum(bytes for path, bytes in size.items() if path.suffix == ".safetensors") < 4e6


@pytest.mark.parametrize("arm", ["ConViT", "DeiT"])
def test_a_shipped_checkpoint_scores_what_its_record_says(arm):
    (run,) = [run for run in shipped("checkpoints") if run["label"]["arm"] == arm]
    model = records.checkpoint(arm.lower())
    assert evaluate(model, data.load("fashion_mnist_5k"), "cpu") == pytest.approx(run["result"]["accuracy"], abs=0.5)
    assert model.config["local_up_to_layer"] == run["config"]["model"]["local_up_to_layer"]
