"""Runs the grids of `experiments`: several processes, one writer, nothing done twice, nothing lost.

Only the parent writes, after every run. A run that was killed leaves a checkpoint and goes on from it; a run
that fails is recorded with its reason. On a CPU every run has one thread, however many run side by side, so
that its numbers do not depend on `jobs`.
"""

import multiprocessing
import os
import signal
import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import torch

from ..train import pick_device, progress
from . import records
from .experiments import LEARNING_RATES, Cell, Settings, check_name, choose, grid
from .run import dataset, perform, start_worker
from .scales import SCALES, Scale


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


@dataclass
class Task:
    """A run to do, and the records it belongs to: (experiment, label) pairs."""

    config: dict
    seed: int
    entries: list[tuple[str, dict]]
    estimate: float = 0.0

    @property
    def id(self) -> str:
        return records.identity(self.config, self.seed)


class Campaign:
    """The records of a folder at one scale, and what is left to do in it."""

    def __init__(self, names: list[str], scale: Scale, out: Path, seeds: int | None):
        self.names, self.scale, self.out = names, scale, out
        self.seeds = scale.seeds if seeds is None else seeds
        known = {path.stem for path in (out / scale.name).glob("*.json")} | set(names)
        self.runs = {name: records.read(records.path_of(out, scale.name, name)) for name in sorted(known)}

    def search_runs(self) -> list[dict]:
        """The reader's own search where it was run in this folder, else the shipped one."""
        return self.runs.get("search") or records.read(records.path_of(records.shipped(), self.scale.name, "search"))

    def cells(self, name: str) -> list[Cell]:
        return grid(name, self.scale, None if name == "search" else choose(self.search_runs(), self.scale))

    def seconds_left(self) -> float:
        """Seconds of computing in all that is left, shared runs counted once.

        The learning rates are guessed where search is still to come: they do not change the time.
        """
        try:
            settings = choose(self.search_runs(), self.scale)
        except ValueError:
            settings = Settings(dict.fromkeys(LEARNING_RATES, 1e-3), "DeiT, equal heads")
        done = {run["id"] for runs in self.runs.values() for run in runs if "result" in run and self.whole(run)}
        left = {
            records.identity(cell.config, seed): self.estimate(cell.config)
            for name in self.names
            for cell in grid(name, self.scale, settings)
            for seed in cell.seeds or range(self.seeds)
        }
        return sum(seconds for run_id, seconds in left.items() if run_id not in done)

    def tasks(self, name: str) -> list[Task]:
        """What is left of an experiment. Runs that other experiments have done are copied, not repeated."""
        cells = self.cells(name)
        done = {run["id"]: run for runs in self.runs.values() for run in runs if "result" in run and self.whole(run)}
        wanted = {(records.identity(cell.config, seed), str(cell.label)): (cell, seed) for cell in cells
                  for seed in cell.seeds or range(self.seeds)}  # fmt: skip
        # More seeds than asked for are kept; what the grid no longer contains is not.
        entries = [(cell.label, cell.config) for cell in cells]
        kept = [run for run in self.runs[name] if (run["label"], run["config"]) in entries and run["id"] in done]
        have = {(run["id"], str(run["label"])) for run in kept}
        tasks: dict[str, Task] = {}
        for key, (cell, seed) in wanted.items():
            if key in have:
                continue
            if key[0] in done:
                kept.append(records.sealed(done[key[0]] | {"label": cell.label}))
            else:
                tasks.setdefault(key[0], Task(cell.config, seed, [])).entries.append((name, cell.label))
        self.runs[name] = kept
        self.save(name)
        for task in tasks.values():
            task.estimate = self.estimate(task.config)
        return list(tasks.values())

    def weights_path(self, config: dict) -> Path:
        return self.out / self.scale.name / f"{config['save']}.safetensors"

    def whole(self, run: dict) -> bool:
        """Whether the weights of a run that saves them are still there."""
        return "save" not in run["config"] or self.weights_path(run["config"]).is_file()

    def save(self, name: str) -> None:
        order = {str(cell.label): number for number, cell in enumerate(self.cells(name))}
        self.runs[name].sort(key=lambda run: (order[str(run["label"])], run["seed"]))
        if self.runs[name]:
            records.write(records.path_of(self.out, self.scale.name, name), name, self.scale.name, self.runs[name])

    def add(self, task: Task, answer: dict) -> None:
        """Record what a task gave: a result, or the reason of its failure."""
        if (weights := answer.pop("weights", None)) is not None:
            records.write_bytes(self.weights_path(task.config), weights)
        if (moments := answer.pop("moments", None)) is not None:
            records.write_bytes(self.weights_path(task.config).with_suffix(".moments.safetensors"), moments)
        for name, label in task.entries:
            run = {"id": task.id, "label": label, "seed": task.seed, "config": task.config, **answer}
            self.runs[name] = [old for old in self.runs[name] if (old["id"], old["label"]) != (task.id, label)]
            self.runs[name].append(records.sealed(run))
            self.save(name)

    def estimate(self, config: dict) -> float:
        """Seconds that a run will take: as long as the same run took before, else by its arithmetic."""
        times, rates = known_seconds(self.scale.name)
        return times.get(records.identity(config, 0)) or arithmetic(config) / rates


@lru_cache
def known_seconds(scale: str) -> tuple[dict[str, float], float]:
    """From the shipped records: seconds by the identity of seed 0, and operations a second."""
    paths = (records.shipped() / scale).glob("*.json")
    found = [run for path in paths for run in records.read(path) if "result" in run]
    times = {records.identity(run["config"], 0): run["meta"]["seconds"] for run in found}
    rates = [arithmetic(run["config"]) / run["meta"]["seconds"] for run in found]
    return times, statistics.median(rates) if rates else 2e10 if scale.startswith("laptop") else 2e13


def arithmetic(config: dict) -> float:
    """Operations of a run, roughly: training steps and evaluations."""
    recipe, model = config["recipe"], config["model"]
    if model.get("kind") == "CNN":
        forward = 3.6e4 * model["width"] ** 2  # for images of about 30 x 30 pixels
    else:
        side = model["img_size"] // model["patch_size"]
        width, tokens = model["embed_dim"], side * side
        forward = model["depth"] * tokens * (24 * width**2 + 4 * width * tokens + 3000 * model.get("num_heads", 0))
    before = sum(arithmetic(config[what]) for what in ("start", "teacher") if what in config)
    return before + forward * (3 * recipe["steps"] * recipe["batch_size"] + 1000 * recipe["evaluations"])


def default_jobs(device: torch.device) -> int:
    """As many runs side by side as there are cores; four on a GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 4 if device.type == "cuda" else cores


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


def usable(device: str) -> torch.device:
    """The device of this name. ValueError if there is none here."""
    try:
        where = pick_device(device)
    except RuntimeError:
        raise ValueError(f"Unknown device {device!r}; known: cpu, cuda, mps, auto.") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(where.type):
        raise ValueError(f"There is no device {device} here that PyTorch can use; leave --device out to take the best.")
    return where


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def run(
    names: list[str], scale_name: str = "laptop", device: str = "auto", jobs: int | None = None,
    seeds: int | None = None, root: str | None = None, out: str | Path = "convit_records",
) -> int:  # fmt: skip
    """Run named experiments into the folder `out`; returns how many runs failed.

    Raises:
        ValueError: an unknown name, scale or device, a record that cannot be read or written, too many jobs.
        FileNotFoundError: the data are not where they should be.
    """
    if scale_name not in SCALES:
        raise ValueError(f"Unknown scale {scale_name!r}; known: {', '.join(SCALES)}.")
    for name in names:  # all of them, before time is spent on the first
        check_name(name)
    scale, where = SCALES[scale_name], usable(device)
    jobs = jobs or default_jobs(where)
    check_memory(jobs, scale)
    failed = 0
    with records.only_writer(Path(out) / scale_name):
        campaign = Campaign(names, scale, Path(out), seeds)
        if len(names) > 1:
            print(f"{len(names)} experiments, in all about {minutes(campaign.seconds_left() / jobs)}.", flush=True)
        for name in names:  # one after the other: the rates that search finds decide what comes next
            tasks = campaign.tasks(name)
            have = len(campaign.runs[name])
            total = sum(task.estimate for task in tasks)
            jobs_now = max(1, min(jobs, len(tasks)))
            print(
                f"{name}: {have} runs recorded, {len(tasks)} to do, about {minutes(total / jobs_now)} "
                f"with {jobs_now} side by side on {where.type}.", flush=True,
            )  # fmt: skip
            if tasks:
                for source in {task.config["data"] for task in tasks}:
                    dataset(source, root)  # missing data are noticed here, once and early
                failed += _run_tasks(campaign, name, tasks, where, jobs_now, root)
    return failed


def _run_tasks(
    campaign: Campaign, name: str, tasks: list[Task], device: torch.device, jobs: int, root: str | None
) -> int:
    """Run all tasks and record each as it ends; returns how many failed."""
    partial = campaign.out / campaign.scale.name / "unfinished"
    threads = 1 if device.type == "cpu" else max(1, (os.cpu_count() or 1) // jobs)
    # The longest first: so that no core waits at the end for a single long run.
    queue = iter(sorted(tasks, key=lambda task: -task.estimate))
    failed = 0
    bar = progress(total=sum(task.estimate for task in tasks), desc=name,
                   bar_format="{desc} {percentage:3.0f} % |{bar}| {elapsed}, {remaining} left{postfix}")  # fmt: skip
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), start_worker, (threads,))
    try:
        for task, future in _side_by_side(pool, queue, jobs, str(device), root, partial):
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                raise error
            if error is not None:
                failed += 1
                reason = f"{type(error).__name__}: {error}"
                campaign.add(task, {"error": reason, "meta": {"date": datetime.now(UTC).isoformat(timespec="seconds")}})
                print(f"\n{name} {task.entries[0][1]} seed {task.seed} failed: {reason}", file=sys.stderr)
            else:
                campaign.add(task, future.result())
                (partial / f"{task.id}.pt").unlink(missing_ok=True)
            bar.update(task.estimate)
            bar.set_postfix_str(f"{len(campaign.runs[name])} runs recorded")
    except BaseException as error:
        for process in list((pool._processes or {}).values()):
            process.kill()  # runs in flight keep their checkpoints
        if isinstance(error, BrokenProcessPool):
            raise ValueError(
                "A process was killed from outside, most likely because memory ran out; "
                f"{len(campaign.runs[name])} runs are recorded. Run again with a smaller --jobs."
            ) from error
        raise
    finally:
        bar.close()
        pool.shutdown(wait=True, cancel_futures=True)
        if partial.is_dir() and not any(partial.iterdir()):
            partial.rmdir()
    return failed


def _side_by_side(
    pool: ProcessPoolExecutor, queue: Iterator[Task], jobs: int, device: str, root: str | None, partial: Path
) -> Iterator[tuple[Task, Future]]:
    """Keep `jobs` tasks running and yield each as it ends."""
    running: dict[Future, Task] = {}
    while True:
        for task in queue:
            checkpoint = str(partial / f"{task.id}.pt")
            with interrupts_held():
                future = pool.submit(perform, task.config, task.seed, device, root, checkpoint)
            running[future] = task
            if len(running) >= jobs:
                break
        if not running:
            return
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield running.pop(future), future
