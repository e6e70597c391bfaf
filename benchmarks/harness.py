"""What the benchmarks share: interleaved timing, peak memory, provenance, tables, records written in one move.

A benchmark is a list of cases; a case is several rows that do the same work. The rows take turns, round after
round, so that whatever else the machine does slows all of them alike. What counts is the median round; the
quartiles say how far to trust it.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from convit_edu.lab.run import commit, processor
from convit_edu.parity import timm
from convit_edu.saving import write_in_one_move
from convit_edu.train import progress

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "convit_edu" / "recorded" / "benchmarks"
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}  # bfloat16 by autocast, as people train
CALLS = {"cpu": 1, "cuda": 10}  # calls in one round: a GPU's are too short to be timed singly
FEWEST, MOST = 5, 30  # rounds

Measured = dict[str, dict]  # row -> {"times": [...], "peak_bytes": ...} or {"skipped": reason}


@dataclass(frozen=True)
class Benchmark:
    """Attributes:
    name: of the script and its records.
    labels: for every row, what the table calls it.
    references: the rows that each row's time is divided by.
    measure: (case, options) -> a dict by row. A case is a dataclass with the fields device and batch.
    estimate: (case, options) -> seconds that this will take, roughly.
    seconds: spent on the rounds of one case, without --full and with it.
    """

    name: str
    labels: Mapping[str, str]
    references: Sequence[str]
    measure: Callable[..., Measured]
    estimate: Callable[..., float]
    seconds: tuple[float, float]


# --- the command line


def parser(description: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--full", action="store_true", help="all cases, not a choice; says first how long they take")
    kinds = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    result.add_argument("--device", nargs="+", choices=kinds, default=kinds, help="default: every one there is")
    result.add_argument("--batch", type=positive, help="images in a batch, instead of each case's own number")
    result.add_argument("--seconds", type=positive, help="time spent on each case, if its rounds are shorter than that")
    result.add_argument("--rounds", type=positive, help=f"rounds of each case, instead of {FEWEST} or more")
    result.add_argument("--out", type=Path, help="the file to write (default: NAME-DEVICE.json beside the records)")
    return result


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"at least 1 is needed, got {text}")
    return int(text)


def selection(result: argparse.ArgumentParser, field: str, choices: Iterable, type: Callable = str) -> None:
    """An option --FIELD that keeps only the cases with these values of a field."""
    result.add_argument(
        f"--{field}", dest=f"only_{field}", nargs="+", type=type, choices=list(choices), help="only these cases"
    )


def compilable(result: argparse.ArgumentParser) -> None:
    """The option --compile."""
    result.add_argument("--compile", action="store_true", help="each case once more with torch.compile")


def selected(cases: list, options: argparse.Namespace) -> list:
    """The cases that the options made by `selection` keep."""
    only = {name.removeprefix("only_"): v for name, v in vars(options).items() if name.startswith("only_") and v}
    return [case for case in cases if all(getattr(case, field) in values for field, values in only.items())]


def main(
    benchmark: Benchmark, result: argparse.ArgumentParser, all_cases: Callable, arguments: list[str] | None
) -> int:
    """Parse, measure, print tables, write a record for each device; returns the exit status.

    `all_cases(options)` are those of the preset. Where other options leave some out or change them, a record is
    written only to a file named by --out.
    """
    options = result.parse_args(arguments)
    if getattr(options, "compile", False) and not can_compile():
        result.error("--compile needs a C++ compiler, and none was found.")
    if options.out and len(options.device) > 1:
        result.error("--out names one file; choose one --device with it.")
    every = all_cases(options)
    cases = selected(every, options)
    if not cases:
        result.error("these options leave no case; try --full with them.")
    whole = cases == every and options.batch is options.seconds is options.rounds is None
    if options.seconds is None:
        options.seconds = benchmark.seconds[options.full]
    if (load := _load() or 0) > 0.5:
        print(f"{load:.1f} cores were busy in the last minute; wait for a quiet machine if the times are to count.")
    minutes = sum(benchmark.estimate(case, options) for case in cases) / 60
    print(f"{len(cases)} cases, about {max(1, round(minutes))} min on two CPU cores. Ctrl-C stops.")
    try:
        for device in options.device:
            meta = metadata(device)
            rows = measure_all(benchmark, [case for case in cases if case.device == device], options)
            path = options.out or (RECORDS / f"{benchmark.name}-{device}.json" if whole else None)
            if path is None:
                print("A selection, so no record; name a file with --out to keep these numbers.")
            else:
                write_record(path, {"schema": 1, "name": benchmark.name, "meta": meta, "rows": rows})
                print(f"Wrote {path}")
    except KeyboardInterrupt:
        print("\nStopped; the record is as it was.", file=sys.stderr)
        return 130
    return 0


def measure_all(benchmark: Benchmark, cases: list, options: argparse.Namespace) -> list[dict]:
    """All rows of all cases, as they stand in the record; prints each case's table when it is done."""
    found = []
    weights = [benchmark.estimate(case, options) for case in cases]
    bar = progress(total=sum(weights), desc=benchmark.name, bar_format="{desc} {percentage:3.0f} % |{bar}| {remaining}")
    with bar:
        for case, weight in zip(cases, weights, strict=True):
            rows = summarise(benchmark, case, benchmark.measure(case, options))
            found += rows
            bar.write(table(benchmark, case, rows))
            bar.update(weight)
    return found


# --- time


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def interleaved(
    rows: Mapping[str, Callable[[], object]], device: str, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds that a call of each row takes, one value for each round: {row: [...]}.

    Rounds go on for --seconds, but not below FEWEST or above MOST; with --rounds there are as many as it says.
    """

    def sample(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        for _ in range(CALLS[device]):
            call()
        synchronize(device)
        return (time.perf_counter() - start) / CALLS[device]

    for call in rows.values():  # a first call sets up much that no later one does
        call()
    synchronize(device)
    times: dict[str, list[float]] = {row: [] for row in rows}
    order = list(rows)
    end = time.perf_counter() + options.seconds
    fewest, most = (options.rounds, options.rounds) if options.rounds else (FEWEST, MOST)
    done = 0
    while done < fewest or (done < most and time.perf_counter() < end):
        for row in order:
            times[row].append(sample(rows[row]))
        order.append(order.pop(0))  # nobody always comes after the same neighbour
        done += 1
    return times


def gpu_busy(call: Callable[[], object], calls: int = 20) -> float:
    """The share of the time, over so many calls, in which at least one kernel or copy runs on the GPU."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    call()
    synchronize("cuda")
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize("cuda")
        wall = time.perf_counter() - start
    on_gpu = [event.time_range for event in profiled.events() if event.device_type == DeviceType.CUDA]
    return covered([(span.start, span.end) for span in on_gpu]) / (1e6 * wall)  # events are in microseconds


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def expected_rounds(once: float, options: argparse.Namespace) -> float:
    """How many rounds `interleaved` will make if one takes `once` seconds."""
    return options.rounds or max(FEWEST, min(MOST, options.seconds / once))


def autocast(device: str, precision: str):
    return torch.autocast(device, PRECISIONS[precision], enabled=precision != "float32")


def can_compile() -> bool:
    """Whether torch.compile finds the C++ compiler that it needs."""
    return any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++", "cl")))


# --- memory


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make while this is on, as long as they live.

    What a kernel allocates and frees within itself is not seen: a megabyte or two, by torch.profiler's account.
    """

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage not in self.known and storage._cdata not in given:  # neither a view nor in place
                    self.known.add(storage)
                    self._change(storage.nbytes())
                    weakref.finalize(storage, self._change, -storage.nbytes())
        return result

    def _change(self, size: int) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)


def peak_memory(call: Callable[[], object], device: str) -> int:
    """The most bytes that `call` holds at one time, beyond what was held before it."""
    if device == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        synchronize(device)
        return torch.cuda.max_memory_allocated() - before
    with LiveTensors() as tensors:
        call()
    return tensors.peak


def times_and_memory(calls: Mapping[str, Callable[[], object]], case, options: argparse.Namespace) -> Measured:
    """What `measure` returns, for rows given as functions: times, and for training steps the peak memory."""
    times = interleaved(calls, case.device, options)
    found: Measured = {row: {"times": times[row]} for row in calls}
    if case.mode == "training" and not (case.compiled and case.device == "cpu"):
        for row, call in calls.items():
            found[row]["peak_bytes"] = peak_memory(call, case.device)
    return found


# --- what is printed and written


def summarise(benchmark: Benchmark, case: object, measured: Measured) -> list[dict]:
    """The case's rows as they stand in the record. `time_over[R]` is this row's median time over that of row R."""
    rows = []
    for name, found in measured.items():
        row = asdict(case) | {"row": name}
        if "skipped" in found:
            rows.append(row | found)
            continue
        times = found.pop("times")
        low, median, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
        row |= {"seconds": median, "low": low, "high": high, "rounds": len(times)}
        rows.append(row | {"images_per_second": case.batch / median} | found)
    medians = {row["row"]: row["seconds"] for row in rows if "seconds" in row}
    for row in rows:
        if "seconds" in row:
            known = [name for name in benchmark.references if name in medians]
            row["time_over"] = {name: row["seconds"] / medians[name] for name in known}
    return rows


def table(benchmark: Benchmark, case: object, rows: list[dict]) -> str:
    """One case on the screen."""
    title = ", ".join(f"{key} {value}" for key, value in asdict(case).items())
    over = "".join(f"{'time / ' + benchmark.labels[name]:>22}" for name in benchmark.references)
    lines = [title, f"  {'':18}{'ms':>9}  {'quartiles':>17}{'images/s':>10}{'peak MB':>9}{over}"]
    for row in rows:
        label = f"  {benchmark.labels[row['row']]:18}"
        if "skipped" in row:
            lines.append(f"{label}{'-':>9}  {row['skipped']}")
            continue
        low, median, high = (f"{1000 * row[key]:.1f}" for key in ("low", "seconds", "high"))
        peak = f"{row['peak_bytes'] / 1e6:.1f}" if row.get("peak_bytes") else ""
        ratios = (f"{row['time_over'][name]:.2f}" if name in row["time_over"] else "" for name in benchmark.references)
        lines.append(
            f"{label}{median:>9}  {low + ' to ' + high:>17}{row['images_per_second']:>10.1f}{peak:>9}"
            + "".join(f"{ratio:>22}" for ratio in ratios)
            + (f"   GPU busy {row['gpu_busy']:.0%}" if "gpu_busy" in row else "")
        )
    return "\n".join(lines) + "\n"


def metadata(device: str) -> dict:
    """Where, when and with what a record was made."""
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": _load(),
        "gpu": gpu,
        "cuda": torch.version.cuda if gpu else None,
    }


def _load() -> float | None:
    """How many cores were busy, on average over the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def write_record(path: Path, record: dict) -> None:
    """Write in one move: whoever is killed on the way leaves the old file or the new one, never a half."""
    text = json.dumps(record | {"rows": None}, indent=1)
    rows = ",\n".join(f"  {json.dumps(row)}" for row in record["rows"])  # each on a line of its own
    text = text.replace('"rows": null', f'"rows": [\n{rows}\n ]')
    write_in_one_move(path, f"{text}\n".encode())


def memory_limit(device: str) -> float:
    """Bytes that one row may take: half of the machine's memory, or most of the GPU's."""
    if device == "cuda":
        return 0.8 * torch.cuda.mem_get_info()[1]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30
