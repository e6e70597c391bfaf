"""The store of recorded runs: one JSON file a run, runs/<id>.json, written in one move and never deleted.

A file holds {config, seed, result, history, meta}, or `error` in the place of result and history. Its name follows from
configuration and seed, so that a run is done once however many experiments and scales ask for it, and folders of two
machines are put together by copying files. An experiment is no file: it is the list of the ids of its grid
(`experiments`), and its result is what `results` and `claims` compute from them. Clocks, devices and versions stand in
`meta` alone: `result` and `history` of the same id are equal to the bit on one machine.
"""

import errno
import json
import math
import os
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path

from torch import Tensor

from ..model import ConViT
from ..saving import write_in_one_move
from .run_config import RunConfig

REMEDY = "take it from a backup, or delete it, and the run is done again"


class RecordError(ValueError):
    """A record that cannot be read, or cannot be written; says which file and what to do."""


def shipped() -> Path:
    """The folder of the records that come with the package."""
    return Path(str(resources.files("convit_edu") / "recorded"))


def path_of(folder: str | Path, run_id: str) -> Path:
    """Where a run stands in a folder of records."""
    return Path(folder).expanduser() / "runs" / f"{run_id}.json"


class Runs(dict):
    """Runs by id as a folder held them; hashed as one object, so that what follows from them is computed once."""

    __hash__ = object.__hash__

    @cached_property
    def by_config(self) -> dict[str, list[dict]]:
        """The runs by the identity that they would have with seed 0, each list by seed."""
        found: dict[str, list[dict]] = {}
        for run in sorted(self.values(), key=lambda run: run["seed"]):
            found.setdefault(run["config"].identity(0), []).append(run)
        return found


def read_all(folder: str | Path) -> Runs:
    """Every run of a folder by its id: {id, config, seed, result, history, meta}, or `error` for the two in the middle.

    The same object again while no file has changed; none for a folder that is not there. Raises RecordError, naming it,
    for a file that is cut short, edited into nonsense or no run of its name, and for a folder that cannot be read.
    """
    place = str(path_of(folder, "").parent)
    try:
        with os.scandir(place) as entries:
            names = [entry for entry in entries if entry.name.endswith(".json") and entry.name[0] != "."]
            found = [(entry.name, state.st_mtime_ns, state.st_size) for entry in names if (state := entry.stat())]
    except (FileNotFoundError, NotADirectoryError):
        found = []
    except OSError as error:
        raise RecordError(f"{place} cannot be read ({error}); give another folder.") from error
    return _read_all(place, tuple(sorted(found)))


@lru_cache(maxsize=16)
def _read_all(place: str, files: tuple[tuple[str, int, int], ...]) -> Runs:
    found, bad = Runs(), []
    for name, *state in files:
        try:
            run = _read(f"{place}/{name}", *state)
            found[run["id"]] = run
        except RecordError as error:
            bad.append(error)
    if bad:
        more = f" ({len(bad) - 1} more file(s) there are as bad.)" if len(bad) > 1 else ""
        raise RecordError(f"{bad[0]}{more}") from bad[0]
    return found


def read(path: str | Path) -> dict:
    """The run of a file. RecordError as in `read_all`."""
    try:
        state = os.stat(path)
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error}); {REMEDY}.") from error
    return _read(str(path), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=10_000)
def _read(path: str, *state: int) -> dict:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no measured number")

    try:
        run = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=refuse)
        config = RunConfig.from_json(run["config"])
        run = {"id": config.identity(run["seed"]), **run, "config": config}
        _check(run)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise RecordError(f"{path} is no readable run ({reason}); {REMEDY}.") from error
    if run["id"] != Path(path).stem:
        twin = Path(path).with_name(f"{run['id']}.json")
        if twin.is_file() and any(read(twin).get(part) != run.get(part) for part in ("result", "history", "error")):
            what = [str(each["result"]["accuracy"]) for each in (run, read(twin)) if "result" in each]
            raise RecordError(
                f"{path} holds the run of {twin.name} with another outcome (accuracy {' and '.join(what)}): two "
                "machines have done it. Keep the one that you trust under that name, and move the other away."
            )
        raise RecordError(f"{path} holds another run than its name says; rename it to {twin.name}, or {REMEDY}.")
    return run


def _check(run: dict) -> None:
    """ValueError, TypeError or KeyError for what no run can have measured."""
    if not isinstance(run["seed"], int) or not isinstance(run["meta"], dict):
        raise ValueError("seed or meta is of another kind")
    if "error" in run:
        if "result" in run or not isinstance(run["error"], str):
            raise ValueError("a run has a result or an error")
        return
    accuracy, by_step, loss = run["result"]["accuracy"], run["history"]["accuracy"], run["history"]["loss"]
    if not (0 <= accuracy <= 100 and run["meta"]["seconds"] >= 0 and loss and all(map(math.isfinite, loss))):
        raise ValueError("accuracy, seconds or loss is no possible number")
    steps = run["config"].recipe.steps
    if any(not 0 <= value <= 100 or not 0 < int(step) <= steps for step, value in by_step.items()):
        raise ValueError("history has an accuracy that cannot be")
    if by_step[str(steps)] != accuracy:
        raise ValueError(f"its accuracy is {accuracy}, and at the last step of its history {by_step[str(steps)]}")


def write(folder: str | Path, config: RunConfig, seed: int, answer: dict) -> None:
    """Keep a run's answer, {result, history, meta} or {error, meta}, in one move: nobody ever finds half of it.

    A finished run is never overwritten: then ValueError. RecordError if the disk is full or the folder read-only.
    """
    path = path_of(folder, config.identity(seed))
    if path.is_file() and "error" not in read(path):
        raise ValueError(f"{path} is a finished run; move it away to do it again.")
    text = json.dumps({"config": config.as_json(), "seed": seed, **answer}, separators=(",", ":"), allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write any file of a folder of records in one move. RecordError as in `write`."""
    try:
        write_in_one_move(Path(path), content)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise RecordError(
            f"{path} could not be written ({reason}); what was recorded before is untouched. "
            "Make room, or give another folder with --out, and run again."
        ) from error


def try_to_write(folder: str | Path) -> None:
    """Before hours of work: RecordError if nothing can be written to a folder of records. It is made where missing."""
    probe = path_of(folder, "").parent / f".{os.getpid()}.try"
    write_bytes(probe, b"")
    probe.unlink()


AGAIN = "convit-edu run checkpoints"  # makes the shipped checkpoints


def half(model: ConViT) -> dict[str, Tensor]:
    """A copy of a model's weights in float16, on the CPU."""
    return {name: value.detach().half().cpu().clone() for name, value in model.state_dict().items()}


def weights_bytes(model: ConViT, run_id: str, kept: dict[int, dict[str, Tensor]] | None = None) -> bytes:
    """A model's weights in float16, with its configuration, as the content of a safetensors file.

    Or, where they are `kept` by the number of training steps done, those.
    """
    from safetensors.torch import save

    if kept is None:
        weights = half(model)
    else:
        weights = {f"{step}.{name}": value for step, found in kept.items() for name, value in found.items()}
    # A single entry: the order of several is not fixed, and the same run should give the same bytes.
    return save(weights, {"convit_edu": json.dumps({"config": model.config, "run": run_id})})


def checkpoint(
    name: str, scale: str = "laptop", folder: str | Path | None = None, step: int | None = None
) -> ConViT:
    """A small trained model by its name ("convit" or "deit"), in float32 and ready to look inside.

    With `step`, one of `moments(name)`, as it was after so many steps of its training. The shipped ones are made
    again by `convit-edu run checkpoints`. RecordError if there is none.
    """
    start = "" if step is None else f"{step}."

    def read_model(file) -> ConViT:
        config = json.loads(file.metadata()["convit_edu"])["config"]
        keys = [key for key in file.keys() if key.startswith(start)]
        if not keys:
            raise KeyError(f"no weights after {step} steps")
        model = ConViT(**config)
        model.load_state_dict({key.removeprefix(start): file.get_tensor(key).float() for key in keys})
        return model.eval()

    return _opened(name, scale, folder, step is not None, read_model)


def moments(name: str, scale: str = "laptop", folder: str | Path | None = None) -> list[int]:
    """The numbers of training steps, before the last, after which the weights of a checkpoint were kept.

    RecordError if there is no such file: `convit-edu run checkpoints` writes it beside the checkpoint.
    """
    return _opened(name, scale, folder, True, lambda file: sorted({int(key.partition(".")[0]) for key in file.keys()}))


def steps(name: str, scale: str = "laptop", folder: str | Path | None = None) -> int:
    """The number of training steps that a checkpoint has behind it. RecordError without a checkpoint or its record."""
    run_id = _opened(name, scale, folder, False, lambda file: json.loads(file.metadata()["convit_edu"])["run"])
    path = path_of(shipped() if folder is None else folder, run_id)
    if not path.is_file():
        raise RecordError(f"There is no record {path} of this checkpoint; make it with: {AGAIN}")
    return read(path)["config"].recipe.steps


def _opened(name: str, scale: str, folder: str | Path | None, before: bool, reading):
    """What `reading` makes of the file of a checkpoint, or of its moments before the end. RecordError if it cannot."""
    from safetensors import SafetensorError, safe_open

    folder = Path(shipped() if folder is None else folder).expanduser()
    path = folder / scale / f"{name}{'.moments' * before}.safetensors"
    if not path.is_file():
        raise RecordError(f"There is no checkpoint {path}; make it with: {AGAIN}")
    try:
        with safe_open(path, "pt") as file:
            return reading(file)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")  # torch lists every weight that does not fit
        raise RecordError(f"{path} is no readable checkpoint ({reason}); delete it to make it again.") from error
