"""The campaign's promises: nothing twice, nothing lost, and a sentence where something is wrong.

Runs are of the scale laptop-rehearsal, of four steps or fewer, and tested on 20 images; every pool of processes takes
seconds to start.
"""

import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from convit_edu.__main__ import OUT, _parser, main
from convit_edu.lab import campaign, records
from convit_edu.lab import run as worker
from convit_edu.lab.results import Results, cells_of
from convit_edu.lab.scales import SCALES

pytestmark = pytest.mark.slow

WHOLE = SCALES["laptop-rehearsal"]
REHEARSAL = replace(WHOLE, test_images=20)
ANSWER = {"result": {"accuracy": 1.0}, "history": {"loss": [2.0]}, "meta": {"seconds": 1.0}}


def command(names, out, *more):
    return ["run", *names, "--scale", REHEARSAL.name, "--device", "cpu", "--out", str(out), *more]


def read(out, name):
    results = Results(name, REHEARSAL.name, out)
    return [*results.runs, *results.failed]


def outcomes(runs):
    """What must be equal to the bit on one machine."""
    return {run["id"]: (run["result"], run["history"]) for run in runs if "result" in run}


def files(out):
    return {path: path.read_bytes() for path in (out / "runs").glob("*.json")}


def answer_of(config):
    """A result that nobody measured, of the right shape."""
    return ANSWER | {"history": {"loss": [2.0], "accuracy": {config.recipe.steps: 1.0}}}


def searched(out):
    for cell in cells_of("search", REHEARSAL, records.read_all(out)):
        for seed in cell.seeds:
            records.write(out, cell.config, seed, answer_of(cell.config))


@pytest.fixture(scope="module", autouse=True)
def few_test_images():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, REHEARSAL.name, REHEARSAL)
        yield


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder with a search that was not run, and `psa` with one seed, in two processes."""
    out = tmp_path_factory.mktemp("recorded") / "new" / "folder"
    searched(out)
    assert main(command(["psa"], out, "--jobs", "2", "--seeds", "1")) == 0
    return out


@pytest.fixture
def out(recorded, tmp_path):
    """A copy of that folder."""
    return Path(shutil.copytree(recorded, tmp_path / "out"))


@pytest.fixture
def no_runs(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("nothing was left to run, yet a run was to be started")

    monkeypatch.setattr(campaign, "_run_all", refuse)


def test_a_run_records_everything(recorded):
    psa = read(recorded, "psa")
    assert [run["label"] for run in psa] == [{"arm": "ConViT"}, {"arm": "DeiT"}, {"arm": "PSA"}]
    for run in psa:
        recipe, model = run["config"].recipe, run["config"].model
        assert 0 <= run["result"]["accuracy"] <= 100 and run["result"]["parameters"] > 1000
        assert run["history"]["accuracy"] == {str(recipe.steps): run["result"]["accuracy"]}
        assert len(run["history"]["loss"]) == recipe.steps and 1 < run["history"]["loss"][0] < 5
        assert run["meta"]["threads"] == 1 and run["meta"]["seconds"] > 0 and run["meta"]["device"] == "cpu"
        assert {"date", "processor", "python", "torch", "commit", "data"} <= set(run["meta"])
        for what, layers in (("nonlocality", 4), ("class_mass", 4), ("gates", model["local_up_to_layer"])):
            assert list(run["history"][what]) == ["0", "4"]
            assert [len(layer) for layer in run["history"][what]["4"]] == [model["num_heads"]] * layers
        assert [len(layers) for layers in run["result"]["metric"].values()] == [4, 4]
        assert 0 <= run["result"]["masking"]["absolute positions"] <= 100
    convit, deit, mixed = psa
    assert [len(convit["result"]["masking"][what]) for what in ("content", "position")] == [3, 3]
    assert "content" not in deit["result"]["masking"] and "content" not in mixed["result"]["masking"]
    assert convit["history"]["gates"]["0"] == [[0.73106] * 9] * 3 and deit["history"]["gates"]["4"] == []
    assert [path.name for path in recorded.iterdir()] == ["runs"]  # no unfinished run, no lock
    assert all(re.fullmatch(r"[0-9a-f]{16}\.json", path.name) for path in (recorded / "runs").iterdir())


def test_nothing_is_done_twice_and_experiments_share_runs(out, no_runs, capsys):
    before = files(out)
    assert main(command(["search", "psa", "dynamics", "masking", "metric"], out, "--seeds", "1")) == 0
    assert files(out) == before
    assert outcomes(read(out, "dynamics")) == outcomes(read(out, "metric")) == outcomes(read(out, "psa")[:2])
    printed = capsys.readouterr().out
    assert "psa: 3 runs recorded, 0 to do" in printed and "metric: 2 runs recorded, 0 to do" in printed


def test_the_same_run_twice_is_the_same_to_the_bit_and_a_failed_run_stops_no_other(out, recorded, monkeypatch, capsys):
    for run in read(out, "psa"):
        records.path_of(out, run["id"]).unlink()
    plain = campaign.perform

    def perform(config, seed, *more):
        if config.model["local_up_to_layer"] == 0:
            raise ValueError("no such luck")
        return plain(config, seed, *more)

    with monkeypatch.context() as patch:  # one process, in which the patch is seen; it was recorded in two
        patch.setattr(campaign, "perform", perform)
        assert main(command(["psa"], out, "--jobs", "1", "--seeds", "1")) == 1
    printed = capsys.readouterr()
    assert "1 run(s) failed" in printed.out and "seed 0 failed: ValueError: no such luck" in printed.err
    (failed,) = Results("psa", REHEARSAL.name, out).failed
    assert failed["label"] == {"arm": "DeiT"} and failed["error"] == "ValueError: no such luck"
    whole = outcomes(read(recorded, "psa"))
    assert outcomes(read(out, "psa")) == {run_id: found for run_id, found in whole.items() if run_id != failed["id"]}
    tasks, have = left("psa", out, 1)
    assert [task.label for task in tasks] == [{"arm": "DeiT"}] and have == 2
    monkeypatch.setattr(campaign, "perform", lambda config, *more: answer_of(config))
    assert main(command(["psa"], out, "--jobs", "1", "--seeds", "1")) == 0  # tried again
    assert not Results("psa", REHEARSAL.name, out).failed


def left(name, out, seeds, scale=REHEARSAL):
    return campaign.tasks_of(cells_of(name, scale, records.read_all(out)), scale, out, seeds)


def test_a_changed_configuration_is_run_again_and_the_stale_run_is_kept_and_counted(out, monkeypatch, capsys):
    before = files(out)
    (run,) = (run for run in read(out, "psa") if run["label"] == {"arm": "PSA"})
    stale = replace(run["config"], recipe=replace(run["config"].recipe, weight_decay=0.3))
    records.path_of(out, run["id"]).unlink()
    records.write(out, stale, 0, {part: run[part] for part in ("result", "history", "meta")})
    monkeypatch.setattr(campaign, "perform", lambda config, *more: answer_of(config))
    assert main(command(["psa"], out, "--jobs", "1", "--seeds", "1")) == 0
    assert f"1 run(s) in {out} belong to no experiment" in capsys.readouterr().out
    after = files(out)
    assert records.path_of(out, stale.identity(0)) in after and after.keys() - {
        records.path_of(out, stale.identity(0))} == before.keys()  # fmt: skip


def test_more_seeds_are_added_and_fewer_take_none_away(out):
    tasks, have = left("psa", out, 3)
    assert have == 3 and sorted((task.seed, task.label["arm"]) for task in tasks) == [
        (seed, arm) for seed in (1, 2) for arm in ("ConViT", "DeiT", "PSA")
    ]
    assert all(task.estimate > 0 for task in tasks)
    for task in tasks:
        records.write(out, task.config, task.seed, answer_of(task.config))
    assert left("psa", out, 1) == ([], 9)
    assert [run["seed"] for run in read(out, "psa")] == [0, 1, 2] * 3


def test_a_gpu_has_four_runs_side_by_side_and_a_cpu_one_for_each_core(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 7)
    assert [campaign.default_jobs(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [7, 4, 4]


def test_the_time_that_is_left_counts_shared_runs_once(tmp_path):
    def seconds(*names, seeds=2):
        return campaign.seconds_left(list(names), REHEARSAL, tmp_path, seeds)

    assert seconds("psa") > seconds("dynamics") > 0
    assert seconds("psa", "dynamics", "masking") == pytest.approx(seconds("psa"))
    assert seconds("psa", seeds=4) == pytest.approx(2 * seconds("psa"))
    searched(tmp_path)
    assert seconds("search") == 0 < seconds("search", "psa")


def test_an_estimate_is_the_time_that_the_same_run_took():
    cell = cells_of("psa", SCALES["laptop"], records.read_all(records.shipped()))[0]
    took = [run["meta"]["seconds"] for run in Results("psa").select(**cell.label).values()]
    assert min(took) <= campaign.Task(cell.config, 7, cell.label).estimate <= max(took)
    longer = replace(cell.config, recipe=replace(cell.config.recipe, steps=12_000))
    assert campaign.Task(longer, 0, {}).estimate > 3 * max(took)


def test_a_lost_checkpoint_is_made_again_and_its_record_stays(out, monkeypatch):
    monkeypatch.setattr(campaign, "perform", lambda config, *more: answer_of(config) | {"weights": b"weights"})
    assert main(command(["checkpoints"], out, "--jobs", "1")) == 0
    kept = out / REHEARSAL.name / "convit.safetensors"
    assert kept.read_bytes() == b"weights" and left("checkpoints", out, None) == ([], 2)
    before = files(out)
    kept.unlink()
    (task,), have = left("checkpoints", out, None)
    assert task.config.save == "convit" and have == 1
    assert main(command(["checkpoints"], out, "--jobs", "1")) == 0
    assert kept.read_bytes() == b"weights" and files(out) == before


def test_a_run_that_another_process_is_doing_is_left_to_it(out, monkeypatch, capsys):
    def refuse(*args):
        raise AssertionError("done twice")

    (task, *_), _ = left("psa", out, 2)
    lock = out / "unfinished" / f"{task.config.identity(task.seed)}.lock"
    lock.parent.mkdir()
    monkeypatch.setattr(campaign, "perform", refuse)
    script = (
        "import sys, time, filelock\n"
        "with filelock.FileLock(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            assert campaign.do(task, REHEARSAL, out, "cpu", None, 1, os.getpid()) == (task, campaign.ELSEWHERE)
        finally:
            holder.kill()  # it has no time to tidy up, and the system lets go for it
    monkeypatch.setattr(campaign, "perform", lambda config, *more: answer_of(config))
    assert campaign.do(task, REHEARSAL, out, "cpu", None, 1, os.getpid()) == (task, "")
    monkeypatch.setattr(campaign, "perform", refuse)
    assert campaign.do(task, REHEARSAL, out, "cpu", None, 1, os.getpid()) == (task, "")  # finished in the meantime


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
def test_killed_and_interrupted_it_keeps_what_was_recorded_and_goes_on(tmp_path, request):
    given = command(["search"], tmp_path, "--jobs", "2")
    whole, said = [sys.executable, "-m", "convit_edu", *given], tmp_path / "said"

    def start():  # a process of its own, which knows the whole scale
        with said.open("w") as file:
            process = subprocess.Popen(
                whole, start_new_session=True, stderr=file, stdout=subprocess.DEVNULL,
                # Tests that a shell runs in the background ignore Ctrl-C, and would pass that on.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip
        request.addfinalizer(lambda: end(process.pid))
        return process

    first = start()
    wait_for(lambda: len(files(tmp_path)) >= 2)
    first.kill()
    first.wait()
    wait_for(lambda: group_is_gone(first.pid), 60)  # the workers go by themselves
    kept = files(tmp_path)
    assert 2 <= len(kept) < 72

    second = start()
    wait_for(lambda: len(files(tmp_path)) > len(kept))
    os.killpg(second.pid, signal.SIGINT)  # as a terminal does: to the parent and to its workers
    assert second.wait(300) == 130
    wait_for(lambda: group_is_gone(second.pid), 60)
    assert said.read_text().strip() == "Stopped. What was recorded is kept; the same command goes on from there."
    more = files(tmp_path)
    assert len(kept) < len(more) < 72 and kept.items() <= more.items()

    tasks, have = left("search", tmp_path, None, WHOLE)
    assert (have, len(tasks)) == (len(more), 72 - len(more))  # the same command goes on from there
    assert all("result" in run for run in records.read_all(tmp_path).values())
    assert not list(tmp_path.rglob("*.tmp"))


def interrupt(*args):
    raise KeyboardInterrupt


def test_an_interrupt_between_two_runs_leaves_no_warning_behind(out, monkeypatch, recwarn):
    def slow(task, *args):  # it travels to the process by its code
        import time

        time.sleep(1)
        return task, ""

    bar = SimpleNamespace(update=interrupt, close=lambda: None)  # while a run is counted, and others are on their way
    monkeypatch.setattr(campaign, "do", slow)
    monkeypatch.setattr(campaign, "progress", lambda **given: bar)
    assert main(command(["psa"], out, "--jobs", "2", "--seeds", "2")) == 130
    gc.collect()
    assert not recwarn.list


def test_a_worker_that_is_killed_is_explained(out, monkeypatch, capsys):
    def kill_me(*args):  # in here, so that it travels to the process by its code and not by a name
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    before = files(out)
    monkeypatch.setattr(campaign, "do", kill_me)
    assert main(command(["psa"], out, "--jobs", "2", "--seeds", "2")) == 2
    error = capsys.readouterr().err
    assert "memory" in error and "--jobs" in error and error.count("\n") == 1
    assert files(out) == before


# --- bad input


def refused(capsys, arguments, *named):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert all(word in error for word in named), error


def test_unknown_names_are_refused_before_anything_is_done(tmp_path, capsys, no_runs):
    for names in (["nonsense"], ["search", "nonsense"], ["all", "nonsense"]):
        refused(capsys, command(names, tmp_path / "out"), "nonsense", "sample_efficiency")
    refused(capsys, command(["ablations"], tmp_path / "out"), "did you mean ablation?")
    refused(capsys, ["run", "psa", "--scale", "latop"], "latop", "did you mean laptop?", "gpu-rehearsal")
    refused(capsys, ["run", "psa", "--device", "abacus"], "abacus", "cuda")
    refused(capsys, ["reprot"], "reprot", "did you mean report?")
    refused(capsys, ["demo", "--device", "abacus"], "abacus", "cuda")
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        main(["run", "psa", "--jobs", "0"])


def test_what_stands_in_the_way_is_said(out, tmp_path, capsys, no_runs, monkeypatch):
    nothing = tmp_path / "nothing"
    refused(capsys, command(["psa"], nothing), "run search --scale laptop-rehearsal")
    with monkeypatch.context() as patch:
        patch.setattr(campaign.Path, "read_text", lambda self, *a: "MemTotal: 9 kB\nMemAvailable:  3500000 kB\n")
        refused(capsys, command(["psa"], nothing, "--jobs", "9"), "9 GB", "3.6 GB", "--jobs 3.")
        refused(capsys, ["run", "psa", "--scale", "gpu", "--jobs", "1"], "free some memory")
    with monkeypatch.context() as patch:
        patch.setattr(campaign, "check_memory", lambda *args: None)
        gpu = ["run", "search", "--scale", "gpu", "--device", "cpu", "--out", str(nothing)]
        refused(capsys, gpu, "cifar100", "--data")
        refused(capsys, [*gpu, "--data", str(tmp_path)], f"{tmp_path}/cifar-100-python/train")
    with pytest.raises(FileNotFoundError, match=r"imagenette2-96.*--data"):
        worker.dataset("imagenette", str(tmp_path))

    file = tmp_path / "file"
    file.write_text("mine")
    refused(capsys, command(["psa"], file), str(file), "--out")
    refused(capsys, command(["psa"], file / "below"), str(file), "--out")
    assert file.read_text() == "mine"

    before = files(out)
    path = next(iter(before))
    path.write_bytes(before[path][:100])
    refused(capsys, command(["dynamics"], out), str(path), "delete")
    assert path.read_bytes() == before[path][:100]


def test_records_go_where_the_reader_stands_and_not_into_the_package(tmp_path, monkeypatch):
    assert _parser().parse_args(["run", "psa"]).out == OUT
    monkeypatch.chdir(tmp_path)
    assert OUT.resolve() == tmp_path.resolve() / "convit_records"
    monkeypatch.setenv("HOME", str(tmp_path))
    found = _parser().parse_args(["run", "psa", "--out", "~/mine", "--data", "~/theirs"])
    assert (found.out, found.data) == (tmp_path / "mine", tmp_path / "theirs")


# --- the program


def test_the_program_says_its_version_and_names_the_other_one(capsys):
    for asked, words in (("--version", r"convit_edu \d+\.\d+"), ("--help", r"convit_edu\.imagenet")):
        with pytest.raises(SystemExit) as found:
            main([asked])
        assert found.value.code == 0 and re.search(words, capsys.readouterr().out)


@pytest.mark.skipif(os.name != "posix", reason="a pipe that breaks is POSIX's")
def test_a_broken_pipe_is_quiet():
    program = [sys.executable, "-m", "convit_edu", "report", "search", "--out", os.devnull]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # before it writes anything
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_an_interrupted_demo_does_not_speak_of_records(monkeypatch, capsys):
    monkeypatch.setattr("convit_edu.__main__.demo", interrupt)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err.strip() == "Stopped."
