"""Runs the grids of `experiments`: several processes, nothing done twice, nothing lost.

Every process keeps its run as soon as it is done, in a file of its own. A run that was killed leaves a checkpoint and
goes on from it; a run that fails is recorded with its reason and tried again next time. On a CPU every run has one
thread, however many run side by side, so that its numbers do not depend on `jobs`.
"""

import json
import os
import signal
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from ..beyond.cost import multiply_adds
from ..evaluation import usable_device
from ..train import progress
from . import records
from .experiments import LEARNING_RATES, Cell, NotSearched, Settings, check_name, grid
from .results import cells_of, settings, unasked
from .run import dataset, perform
from .run_config import RunConfig, create
from .scales import SCALES, Scale

ELSEWHERE = "elsewhere"  # what `do` answers where another process has a run in its hands


@dataclass(frozen=True)
class Task:
    """A run to do, and what to call it."""

    config: RunConfig
    seed: int
    label: dict

    @property
    def estimate(self) -> float:
        """Seconds that it will take: as long as the same run took before, else by its arithmetic."""
        times, rate = known_seconds(self.config.data)
        return times.get(self.config.identity(0)) or arithmetic(self.config) / rate


def tasks_of(cells: Iterable[Cell], scale: Scale, out: Path, seeds: int | None) -> tuple[list[Task], int]:
    """What is left to do of these cells, each run once, and how many of their runs are recorded, of any seed."""
    runs = records.read_all(out)
    done = {run_id: run for run_id, run in runs.items() if "result" in run and _whole(run["config"], scale, out)}
    left, configs = {}, set()
    for cell in cells:
        configs.add(cell.config.identity(0))
        for seed in cell.seeds_at(scale, seeds):
            if (run_id := cell.config.identity(seed)) not in done:
                left.setdefault(run_id, Task(cell.config, seed, cell.label))
    return list(left.values()), sum(run["config"].identity(0) in configs for run in done.values())


def _weights(config: RunConfig, scale: Scale, out: Path) -> Path:
    return out / scale.name / f"{config.save}.safetensors"


def _whole(config: RunConfig, scale: Scale, out: Path) -> bool:
    """Whether the weights of a run that saves them are still there."""
    return not config.save or _weights(config, scale, out).is_file()


def seconds_left(names: list[str], scale: Scale, out: Path, seeds: int | None) -> float:
    """Seconds of computing in all that is left, shared runs counted once.

    The learning rates are guessed where search is still to come: they do not change the time.
    """
    try:
        chosen = settings(scale, records.read_all(out))
    except NotSearched:
        chosen = Settings(dict.fromkeys(LEARNING_RATES, 1e-3), "DeiT, equal heads")
    cells = [cell for name in names for cell in grid(name, scale, chosen)]
    return sum(task.estimate for task in tasks_of(cells, scale, out, seeds)[0])


@lru_cache
def known_seconds(data: str) -> tuple[dict[str, float], float]:
    """From the shipped records on a data set: seconds by the identity of seed 0, and multiply-adds a second."""
    found = [run for run in records.read_all(records.shipped()).values()
             if "result" in run and run["config"].data == data]  # fmt: skip
    times = {run["config"].identity(0): run["meta"]["seconds"] for run in found}
    rates = [arithmetic(run["config"]) / run["meta"]["seconds"] for run in found]
    return times, statistics.median(rates) if rates else 1e10 if data == "fashion_mnist_5k" else 1e13


def arithmetic(config: RunConfig) -> float:
    """Multiply-adds of a run, roughly: training steps and evaluations, and those of the runs before it."""
    recipe, before = config.recipe, [run for run in (config.teacher, config.start) if run]
    images = 3 * recipe.steps * recipe.batch_size + 1000 * recipe.evaluations
    return images * _forward(config.data, config.network, json.dumps(config.model)) + sum(map(arithmetic, before))


@lru_cache
def _forward(data: str, network: str, model: str) -> int:
    sides = {"fashion_mnist_5k": (28, 28), "cifar100": (32, 32), "imagenette": (96, 96)}[data]
    built = create(network, json.loads(model))
    return multiply_adds(built, (built.config["in_chans"], *sides))


def default_jobs(device: torch.device) -> int:
    """As many runs side by side as there are cores to use; four on a GPU."""
    from joblib import cpu_count

    return cpu_count() if device.type == "cpu" else 4


def check_memory(jobs: int, scale: Scale) -> None:
    """ValueError if so many jobs would not fit into the free memory."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return  # not known on this system
    if jobs * scale.job_memory > free:
        fitting = int(free // scale.job_memory)
        remedy = f"use --jobs {fitting}" if fitting else "free some memory first"
        raise ValueError(
            f"{jobs} job(s) need about {jobs * scale.job_memory / 1e9:.0f} GB and {free / 1e9:.1f} GB are free; "
            f"{remedy}."
        )


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def run(
    names: list[str], scale_name: str = "laptop", device: str = "auto", jobs: int | None = None,
    seeds: int | None = None, root: str | Path | None = None, out: str | Path = "convit_records",
) -> int:  # fmt: skip
    """Run named experiments into the folder `out`; returns how many runs failed.

    Raises:
        ValueError: an unknown name, scale or device, a record that cannot be read or written, too many jobs.
        FileNotFoundError: the data are not where they should be.
    """
    check_name(scale_name, SCALES, "scale")
    for name in names:  # all of them, before time is spent on the first
        check_name(name)
    scale, where, out = SCALES[scale_name], usable_device(device), Path(out).expanduser()
    jobs = jobs or default_jobs(where)
    check_memory(jobs, scale)
    records.read_all(out)
    records.try_to_write(out)
    if stale := unasked(out):
        print(f"{len(stale)} run(s) in {out} belong to no experiment as it is now; they are kept.")
    if len(names) > 1:
        total = seconds_left(names, scale, out, seeds)
        print(f"{len(names)} experiments, in all about {minutes(total / jobs)}.", flush=True)
    from joblib.externals.loky import get_reusable_executor

    try:
        # One after the other: the rates that search finds decide what comes next.
        return sum(_run_one(name, scale, out, where, jobs, seeds, root) for name in names)
    finally:
        # Runs in flight are stopped, and keep their checkpoints.
        get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)
        _tidy(out / "unfinished")


def _run_one(
    name: str, scale: Scale, out: Path, device: torch.device, jobs: int, seeds: int | None, root: str | Path | None
) -> int:
    """Say what is left of an experiment, and do it; returns how many runs failed."""
    tasks, have = tasks_of(cells_of(name, scale, records.read_all(out)), scale, out, seeds)
    jobs = max(1, min(jobs, len(tasks)))
    seconds = sum(task.estimate for task in tasks) / jobs
    print(f"{name}: {have} runs recorded, {len(tasks)} to do, about {minutes(seconds)} with {jobs} side by side on "
          f"{device.type}.", flush=True)  # fmt: skip
    for source in {task.config.data for task in tasks}:
        dataset(source, root)  # missing data are noticed here, once and early
    return _run_all(name, tasks, scale, out, device, jobs, root) if tasks else 0


def _run_all(
    name: str, tasks: list[Task], scale: Scale, out: Path, device: torch.device, jobs: int, root: str | Path | None
) -> int:
    """Do all tasks; returns how many failed."""
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import BrokenProcessPool

    threads = 1 if device.type == "cpu" else max(1, (os.cpu_count() or 1) // jobs)
    # The longest first: so that no core waits at the end for a single long run.
    queue = sorted(tasks, key=lambda task: -task.estimate)
    failed, elsewhere = 0, 0
    bar = progress(total=sum(map(_milliseconds, tasks)), desc=name,
                   bar_format="{desc} {percentage:3.0f} % |{bar}| {elapsed}, {remaining} left{postfix}")  # fmt: skip
    pool = Parallel(jobs, return_as="generator_unordered", pre_dispatch=jobs, batch_size=1, max_nbytes=None)
    calls = (delayed(do)(task, scale, out, str(device), root, threads, os.getpid()) for task in queue)
    done, answers = 0, None
    try:
        with interrupts_held():
            answers = pool(calls)
        for task, reason in answers:
            done += not reason
            elsewhere += reason == ELSEWHERE
            if reason and reason != ELSEWHERE:
                failed += 1
                print(f"\n{name} {task.label} seed {task.seed} failed: {reason}", file=sys.stderr)
            bar.update(_milliseconds(task))
            bar.set_postfix_str(f"{done} of {len(tasks)} done")
    except BrokenProcessPool as error:
        raise ValueError(
            "A process was killed from outside, most likely because memory ran out; "
            f"{done} runs of {name} were done before. Run again with a smaller --jobs."
        ) from error
    finally:
        bar.close()
        if answers is not None:
            with warnings.catch_warnings():  # joblib's, of runs that an interrupt stops: they keep their checkpoints
                warnings.simplefilter("ignore", UserWarning)
                answers.close()
    if elsewhere:
        print(f"{name}: {elsewhere} run(s) were left to another process that is doing them in {out}.")
    return failed


def _milliseconds(task: Task) -> int:
    return round(1000 * task.estimate)


def do(
    task: Task, scale: Scale, out: Path, device: str, root: str | Path | None, threads: int, parent: int
) -> tuple[Task, str]:
    """Do a run and keep it; answers the task, and why it failed, if it did. RecordError if it cannot be kept."""
    if os.getpid() != parent:
        start_worker(parent)
    torch.set_num_threads(threads)
    unfinished, run_id = out / "unfinished", task.config.identity(task.seed)
    unfinished.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(unfinished / f"{run_id}.lock", timeout=0):  # the system frees it when a process dies
            path, checkpoint = records.path_of(out, run_id), unfinished / f"{run_id}.pt"
            finished = path.is_file() and "result" in records.read(path)
            if finished and _whole(task.config, scale, out):
                return task, ""  # another process has done it in the meantime
            try:
                answer = perform(task.config, task.seed, device, root, str(checkpoint))
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                answer = {"error": reason, "meta": {"date": datetime.now(UTC).isoformat(timespec="seconds")}}
            for kind, suffix in (("weights", ".safetensors"), ("moments", ".moments.safetensors")):
                if (content := answer.pop(kind, None)) is not None:
                    records.write_bytes(_weights(task.config, scale, out).with_suffix(suffix), content)
            if not finished:
                records.write(out, task.config, task.seed, answer)
            if "error" not in answer:
                checkpoint.unlink(missing_ok=True)
            return task, answer.get("error", "")
    except Timeout:
        return task, ELSEWHERE


def _tidy(unfinished: Path) -> None:
    """Take away locks that nobody holds, and the folder where nothing else is left in it."""
    for path in unfinished.glob("*.lock"):
        try:
            with FileLock(path, timeout=0):
                path.unlink(missing_ok=True)
        except (Timeout, OSError):
            pass
    try:
        unfinished.rmdir()
    except OSError:
        pass  # not empty, or not there


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the end of this context, and processes that start in it never hear of it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@lru_cache
def start_worker(parent: int) -> None:
    """Prepare a process of the pool: no answer to Ctrl-C (the parent's), and an end when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["CONVIT_EDU_PROGRESS"] = "0"
    tqdm.set_lock(threading.RLock())  # tqdm's own is the system's, and left behind where a process is killed

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if os.name == "posix":
        threading.Thread(target=follow, daemon=True).start()
