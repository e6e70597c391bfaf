"""The campaign's promises: nothing twice, nothing lost, and a sentence where something is wrong.

Runs are of the scale laptop-rehearsal, of four steps or fewer; every pool of processes takes seconds to start.
"""

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

from convit_edu.__main__ import OUT, _parser, main
from convit_edu.lab import campaign, records
from convit_edu.lab.campaign import Campaign
from convit_edu.lab.experiments import grid
from convit_edu.lab.scales import SCALES

REHEARSAL = SCALES["laptop-rehearsal"]


def command(names, out, *more):
    return ["run", *names, "--scale", REHEARSAL.name, "--device", "cpu", "--out", str(out), *more]


def read(out, name):
    return records.read(records.path_of(out, REHEARSAL.name, name))


def outcomes(runs):
    """What must be equal to the bit on one machine."""
    return {(run["id"], str(run["label"])): (run["result"], run["history"]) for run in runs if "result" in run}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder with `search`, and `psa` with one seed."""
    out = tmp_path_factory.mktemp("recorded") / "new" / "folder"
    assert main(command(["search", "psa"], out, "--jobs", "2", "--seeds", "1")) == 0
    return out


@pytest.fixture
def out(recorded, tmp_path):
    """A copy of that folder."""
    return Path(shutil.copytree(recorded, tmp_path / "out"))


@pytest.fixture
def no_processes(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("nothing was left to run, yet a process was to be started")

    monkeypatch.setattr(campaign, "ProcessPoolExecutor", refuse)


def test_a_run_records_everything(recorded):
    search, psa = read(recorded, "search"), read(recorded, "psa")
    assert len(search) == 32 and {run["seed"] for run in search} == {0, 1}  # its seeds are fixed
    assert [run["label"] for run in psa] == [{"arm": "ConViT"}, {"arm": "DeiT"}, {"arm": "PSA"}]
    for run in search + psa:
        recipe = run["config"]["recipe"]
        assert 0 <= run["result"]["accuracy"] <= 100 and run["result"]["parameters"] > 1000
        assert run["history"]["accuracy"] == {str(recipe["steps"]): run["result"]["accuracy"]}
        assert len(run["history"]["loss"]) == recipe["steps"] and 1 < run["history"]["loss"][0] < 5
        assert run["meta"]["threads"] == 1 and run["meta"]["seconds"] > 0 and run["meta"]["device"] == "cpu"
        assert {"date", "processor", "python", "torch", "commit", "data"} <= set(run["meta"])
    convit, deit, mixed = psa
    for run in psa:
        model = run["config"]["model"]
        for what, layers in (("nonlocality", 4), ("class_mass", 4), ("gates", model["local_up_to_layer"])):
            assert list(run["history"][what]) == ["0", "4"]
            assert [len(layer) for layer in run["history"][what]["4"]] == [model["num_heads"]] * layers
        assert [len(layers) for layers in run["result"]["metric"].values()] == [4, 4]
        assert 0 <= run["result"]["masking"]["absolute positions"] <= 100
    assert [len(convit["result"]["masking"][what]) for what in ("content", "position")] == [3, 3]
    assert "content" not in deit["result"]["masking"] and "content" not in mixed["result"]["masking"]
    assert convit["history"]["gates"]["0"] == [[0.73106] * 9] * 3 and deit["history"]["gates"]["4"] == []
    files = {path.name for path in (recorded / REHEARSAL.name).iterdir()}
    assert files - {".lock"} == {"search.json", "psa.json"}  # no unfinished run, no temporary file


def test_nothing_is_done_twice_and_experiments_share_runs(out, no_processes, capsys):
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    names = ["search", "psa", "dynamics", "masking", "metric"]
    assert main(command(names, out, "--seeds", "1")) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert read(out, "dynamics") == read(out, "masking") == read(out, "metric") == read(out, "psa")[:2]
    printed = capsys.readouterr().out
    assert "psa: 3 runs recorded, 0 to do" in printed and "metric: 2 runs recorded, 0 to do" in printed


def impossible(self, name):
    """The cells of an experiment, and before them one that no model fits."""
    cells = grid(name, self.scale, campaign.choose(self.search_runs(), self.scale))
    model = cells[0].config["model"] | {"num_heads": 7}
    return [dataclasses.replace(cells[0], label={"arm": "odd"}, config=cells[0].config | {"model": model}), *cells]


def test_the_same_run_twice_is_the_same_to_the_bit_and_a_failed_run_stops_no_other(out, recorded, monkeypatch, capsys):
    records.path_of(out, REHEARSAL.name, "psa").unlink()
    monkeypatch.setattr(Campaign, "cells", impossible)
    assert main(command(["psa"], out, "--jobs", "1", "--seeds", "1")) == 1  # recorded with --jobs 2
    printed = capsys.readouterr()
    assert "1 run(s) failed; their reasons are recorded, and the same command tries them again" in printed.out
    runs = read(out, "psa")
    failed = runs[0]  # in the order of the grid
    assert failed["label"] == {"arm": "odd"} and "result" not in failed and "history" not in failed
    assert failed["error"].startswith("ValueError: dim=54 cannot be shared equally by num_heads=7")
    assert f"psa {failed['label']} seed 0 failed: {failed['error']}" in printed.err
    assert outcomes(runs) == outcomes(read(recorded, "psa")) and len(runs) == 4

    again = Campaign(["psa"], REHEARSAL, out, 1)
    assert [task.entries for task in again.tasks("psa")] == [[("psa", {"arm": "odd"})]]
    monkeypatch.undo()
    mended = Campaign(["psa"], REHEARSAL, out, 1)
    assert mended.tasks("psa") == [] and len(read(out, "psa")) == 3


def test_a_changed_configuration_is_run_again_and_the_stale_run_goes(out, monkeypatch):
    before = read(out, "psa")
    plain = Campaign.cells

    def changed(self, name):
        cells = plain(self, name)
        recipe = cells[0].config["recipe"] | {"weight_decay": 0.1}
        return [dataclasses.replace(cells[0], config=cells[0].config | {"recipe": recipe}), *cells[1:]]

    monkeypatch.setattr(Campaign, "cells", changed)
    campaign = Campaign(["psa"], REHEARSAL, out, 1)
    (task,) = campaign.tasks("psa")
    assert task.config["recipe"]["weight_decay"] == 0.1 and task.entries == [("psa", {"arm": "ConViT"})]
    assert read(out, "psa") == before[1:]
    campaign.add(task, {"result": {"accuracy": 1.0}, "history": {}, "meta": {}})
    assert [run["label"] for run in read(out, "psa")] == [run["label"] for run in before]


def test_a_changed_label_is_no_reason_to_run_again(out, monkeypatch):
    before = read(out, "psa")
    plain = Campaign.cells
    monkeypatch.setattr(Campaign, "cells", lambda self, name: [
        dataclasses.replace(cell, label={"model": cell.label["arm"]}) for cell in plain(self, name)])  # fmt: skip
    assert Campaign(["psa"], REHEARSAL, out, 1).tasks("psa") == []
    assert [run["label"] for run in read(out, "psa")] == [{"model": run["label"]["arm"]} for run in before]
    assert [run["id"] for run in read(out, "psa")] == [run["id"] for run in before]


def test_more_seeds_are_added_and_fewer_take_none_away(out):
    campaign = Campaign(["psa"], REHEARSAL, out, 3)
    tasks = campaign.tasks("psa")
    assert sorted((task.seed, task.entries[0][1]["arm"]) for task in tasks) == [
        (seed, arm) for seed in (1, 2) for arm in ("ConViT", "DeiT", "PSA")
    ]
    assert all(task.estimate > 0 for task in tasks)
    for task in tasks:
        campaign.add(task, {"result": {"accuracy": 1.0}, "history": {}, "meta": {}})
    fewer = Campaign(["psa"], REHEARSAL, out, 1)
    assert fewer.tasks("psa") == [] and len(read(out, "psa")) == 9
    assert [run["seed"] for run in read(out, "psa")] == [0, 1, 2] * 3


def test_a_lost_checkpoint_is_made_again(out):
    campaign = Campaign(["checkpoints"], REHEARSAL, out, None)
    tasks = campaign.tasks("checkpoints")
    assert [(task.config["save"], task.seed) for task in tasks] == [("convit", 0), ("deit", 0)]
    for task in tasks:
        campaign.add(task, {"result": {"accuracy": 1.0}, "history": {}, "meta": {}, "weights": b"weights"})
    assert campaign.weights_path(tasks[0].config).read_bytes() == b"weights"
    assert "weights" not in read(out, "checkpoints")[0]
    assert Campaign(["checkpoints"], REHEARSAL, out, None).tasks("checkpoints") == []
    campaign.weights_path(tasks[1].config).unlink()
    (task,) = Campaign(["checkpoints"], REHEARSAL, out, None).tasks("checkpoints")
    assert task.config["save"] == "deit"


# --- killed and interrupted


def wait_for(what, seconds=300):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def end(group):
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def group_is_gone(group):
    try:
        os.waitpid(-group, os.WNOHANG)  # where this process is the container's first, orphans are its to bury
    except ChildProcessError:
        pass
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are POSIX's")
def test_killed_and_interrupted_it_keeps_what_was_recorded_and_goes_on(recorded, tmp_path, capsys, request):
    given = command(["search"], tmp_path, "--jobs", "2")
    whole, said = [sys.executable, "-m", "convit_edu", *given], tmp_path / "said"

    def start():
        with said.open("w") as file:
            process = subprocess.Popen(
                whole, start_new_session=True, stderr=file, stdout=subprocess.DEVNULL,
                # Tests that a shell runs in the background ignore Ctrl-C, and would pass that on.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip
        request.addfinalizer(lambda: end(process.pid))
        return process

    first = start()
    wait_for(lambda: len(read(tmp_path, "search")) >= 2)
    assert main(given) == 2  # a second writer
    assert "error: Another process is writing to" in capsys.readouterr().err
    first.kill()
    first.wait()
    wait_for(lambda: group_is_gone(first.pid), 10)  # the workers go by themselves
    kept = read(tmp_path, "search")
    assert 2 <= len(kept) < 32

    second = start()
    wait_for(lambda: len(read(tmp_path, "search")) > len(kept))
    os.killpg(second.pid, signal.SIGINT)  # as a terminal does: to the parent and to its workers
    assert second.wait(300) == 130
    wait_for(lambda: group_is_gone(second.pid), 10)
    assert said.read_text().strip() == "Stopped. What was recorded is kept; the same command goes on from there."
    more = read(tmp_path, "search")
    assert len(kept) < len(more) < 32

    third = subprocess.run(whole, capture_output=True, text=True)
    assert third.returncode == 0 and f"search: {len(more)} runs recorded, {32 - len(more)} to do" in third.stdout
    last = read(tmp_path, "search")
    assert all(run in last for run in kept + more)  # with their clocks: they were not run again
    assert outcomes(last) == outcomes(read(recorded, "search"))
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_worker_that_is_killed_is_explained(out, monkeypatch, capsys):
    class Pool:
        _processes = None

        def __init__(self, *args):
            self.alive = True

        def submit(self, *args):
            if not self.alive:  # as the real one, once it knows
                raise BrokenProcessPool("a process in the process pool was terminated abruptly")
            self.alive, future = False, Future()
            future.set_exception(BrokenProcessPool("a process in the process pool was terminated abruptly"))
            return future

        def shutdown(self, **options):
            pass

    monkeypatch.setattr(campaign, "ProcessPoolExecutor", Pool)
    for jobs in ("1", "2"):  # noticed in a result, and while handing out the next run
        assert main(command(["cutmix"], out, "--jobs", jobs, "--seeds", "2")) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: A process was killed from outside, most likely because memory ran out; 1 runs")
        assert "smaller --jobs" in error
    assert len(read(out, "cutmix")) == 1 and "error" not in read(out, "cutmix")[0]


# --- bad input


def refused(capsys, arguments, sentence):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error and error.count("\n") == 1, error


def test_unknown_names_are_refused_before_anything_is_done(tmp_path, capsys, no_processes):
    known = "known: search, sample_efficiency"
    for names in (["nonsense"], ["search", "nonsense"], ["all", "nonsense"]):
        refused(capsys, command(names, tmp_path / "out"), known)
    refused(capsys, ["run", "psa", "--scale", "huge"], "Unknown scale 'huge'; known: laptop, gpu, laptop-rehearsal")
    refused(capsys, ["run", "psa", "--device", "abacus"], "Unknown device 'abacus'; known: cpu, cuda, mps, auto.")
    if not torch.cuda.is_available():
        refused(capsys, ["run", "psa", "--device", "cuda"], "There is no device cuda here that PyTorch can use")
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        main(["run", "psa", "--jobs", "0"])


def test_what_stands_in_the_way_is_said(out, tmp_path, capsys, no_processes, monkeypatch):
    nothing = tmp_path / "nothing"
    refused(capsys, command(["psa"], nothing), "first run: python -m convit_edu run search --scale laptop-rehearsal")
    with monkeypatch.context() as patch:
        patch.setattr(campaign.Path, "read_text", lambda self, *a: "MemTotal: 9 kB\nMemAvailable:  3500000 kB\n")
        refused(capsys, command(["psa"], nothing, "--jobs", "9"), "9 job(s) need about 9 GB and 3.6 GB are free; use "
                                                                  "--jobs 3.")  # fmt: skip
        refused(capsys, ["run", "psa", "--scale", "gpu", "--jobs", "1"], "free some memory first")
    with monkeypatch.context() as patch:
        patch.setattr(campaign, "check_memory", lambda *args: None)
        gpu = ["run", "search", "--scale", "gpu", "--device", "cpu", "--out", str(nothing)]
        refused(capsys, gpu, "cifar100 does not come with the package; name the folder that holds torchvision's files")
        refused(capsys, [*gpu, "--data", str(tmp_path)], f"{tmp_path}/cifar-100-python/train is missing; with a netw")
    with pytest.raises(FileNotFoundError, match=r"imagenette2-96; unpack its 96-pixel version there .* with --data"):
        campaign.dataset("imagenette", str(tmp_path))

    path = records.path_of(out, REHEARSAL.name, "psa")
    whole = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused(capsys, command(["dynamics"], out, "--seeds", "1"), "the disk is full")
    assert path.read_bytes() == whole and not records.path_of(out, REHEARSAL.name, "dynamics").exists()
    path.write_bytes(whole[: len(whole) // 2])
    refused(capsys, command(["dynamics"], out), "psa.json is no readable record")
    assert path.read_bytes() == whole[: len(whole) // 2]


def test_records_go_where_the_reader_stands_and_not_into_the_package(tmp_path, monkeypatch):
    assert _parser().parse_args(["run", "psa"]).out == OUT
    monkeypatch.chdir(tmp_path)
    assert OUT.resolve() == tmp_path.resolve() / "convit_records"
