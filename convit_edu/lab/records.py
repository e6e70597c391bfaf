"""Recorded runs: a JSON file for each experiment and scale, doubted when read, written in one move.

A run is {id, label, seed, config, result, history, meta, digest}, or has `error` in the place of `result` and
`history`. `id` names configuration and seed, so that a run is done once however many experiments share it;
`digest` covers everything else, so that a file edited by hand is noticed. Clocks, devices and versions stand
in `meta` alone: `result` and `history` of the same id are equal to the bit on one machine.
"""

import errno
import hashlib
import json
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor

from ..files import write_in_one_move
from ..model import ConViT
from .packing import unpack

SCHEMA = 1
FIELDS = {"id": str, "label": dict, "seed": int, "config": dict, "meta": dict, "digest": str}


class RecordError(ValueError):
    """A record that cannot be read, or cannot be written; says which file and what to do."""


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def identity(config: dict, seed: int) -> str:
    """The name of a run: 16 hexadecimal digits that depend on its configuration and seed alone."""
    return _sha256([config, seed])[:16]


def sealed(run: dict) -> dict:
    """The run with its `digest`."""
    body = json.loads(json.dumps({key: value for key, value in run.items() if key != "digest"}))  # keys as in a file
    return body | {"digest": _sha256(body)}


def shipped() -> Path:
    """The folder of the records that come with the package."""
    return Path(str(resources.files("convit_edu") / "recorded"))


def path_of(folder: str | Path, scale: str, name: str) -> Path:
    """Where the record of an experiment stands in a folder of records."""
    return Path(folder) / scale / f"{name}.json"


def read(path: str | Path) -> list[dict]:
    """The runs of a record; an empty list if there is no such file.

    Raises:
        RecordError: the file is cut short, of a newer schema, not a record, or was edited by hand.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (ValueError, OSError) as error:
        raise RecordError(
            f"{path} is no readable record ({error}); delete it to make it again, or take it from a backup."
        ) from error
    if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
        raise RecordError(f"{path} is not a record of this package; give another folder, or move the file away.")
    if record["schema"] > SCHEMA:
        raise RecordError(
            f"{path} has schema {record['schema']}, and this version reads up to {SCHEMA}; install a newer convit_edu."
        )
    runs = record.get("runs")
    if not isinstance(runs, list):
        raise RecordError(f"{path} holds no list of runs; delete it to make it again.")
    for run in runs:
        _check(run, path)
    return runs


def _check(run: object, path: Path) -> None:
    whole = isinstance(run, dict) and all(isinstance(run.get(key), kind) for key, kind in FIELDS.items())
    if not whole or ("error" in run) == ("result" in run):
        raise RecordError(f"{path} holds a run that is not whole; delete the file to make it again.")
    if sealed(run)["digest"] != run["digest"] or identity(run["config"], run["seed"]) != run["id"]:
        raise RecordError(
            f"{path}: run {run['id']} ({run['label']}, seed {run['seed']}) was changed after it was recorded; "
            "take that line from a backup, or delete it to run it again."
        )


def write(path: str | Path, name: str, scale: str, runs: Iterable[dict]) -> None:
    """Write a record in one move: whoever is killed on the way leaves the old file or the new, never a half.

    Raises:
        RecordError: the disk is full or the folder cannot be written; the file is as it was.
    """
    head = json.dumps({"schema": SCHEMA, "name": name, "scale": scale})
    lines = ",\n".join(json.dumps(run) for run in runs)  # a line a run: a change shows as a changed line
    write_bytes(path, f'{head[:-1]}, "runs": [\n{lines}\n]}}\n'.encode())


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


@contextmanager
def only_writer(folder: str | Path):
    """Hold a folder of records; RecordError if another process does. The system frees it when a process dies."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise RecordError(
            f"Another process is writing to {folder}; wait for it, stop it, or give another folder with --out."
        ) from None
    except OSError as error:
        raise RecordError(f"{folder} cannot be written ({error}); give another folder with --out.") from error
    try:
        yield
    finally:
        lock.release()


def checkpoint_bytes(model: ConViT, run_id: str) -> bytes:
    """A model's weights in float16 and its configuration, as the content of a safetensors file."""
    from safetensors.torch import save

    weights = {name: value.detach().half().cpu().contiguous() for name, value in model.state_dict().items()}
    # A single entry: the order of several is not fixed, and the same run should give the same bytes.
    return save(weights, {"convit_edu": json.dumps({"config": model.config, "run": run_id})})


def checkpoint(name: str, scale: str = "laptop", folder: str | Path | None = None) -> ConViT:
    """A small trained model by its name ("convit" or "deit"), in float32 and ready to look inside.

    The shipped ones are made again by `python -m convit_edu run checkpoints`. RecordError if there is none.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(folder or shipped()) / scale / f"{name}.safetensors"
    if not path.is_file():
        raise RecordError(f"There is no checkpoint {path}; make it with: python -m convit_edu run checkpoints")
    try:
        with safe_open(path, "pt") as file:
            config = json.loads(file.metadata()["convit_edu"])["config"]
            retired = {"mixing": "gated", "attn_drop_rate": 0.0, "proj_drop_rate": 0.0}  # settings of older files
            config = {name: value for name, value in config.items() if name not in retired or value != retired[name]}
            weights = {key: file.get_tensor(key).float() for key in file.keys()}
        model = ConViT(**config)
        model.load_state_dict(weights)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")  # torch lists every weight that does not fit
        raise RecordError(f"{path} is no readable checkpoint ({reason}); delete it to make it again.") from error
    return model.eval()


def attention_bytes(kept: dict[int, list[Tensor]], picture: int, run_id: str) -> bytes:
    """Packed attention, a list of layers for each training step, as the content of a safetensors file."""
    from safetensors.torch import save

    layers = {f"{step}.{layer}": packed for step, found in kept.items() for layer, packed in enumerate(found)}
    return save(layers, {"convit_edu": json.dumps({"picture": picture, "run": run_id})})


@dataclass(frozen=True)
class Attention:
    """What a model attended to on one test image, while it was trained.

    Attributes:
        picture: the number of the test image.
        steps: by number of training steps done, a list of layers, each (H, N, N) with a query a row, float64. N is
            the number of patches, and one more, in front, where there is a class token.
    """

    picture: int
    steps: dict[int, list[np.ndarray]]


def attention(name: str, scale: str = "laptop", folder: str | Path | None = None) -> Attention:
    """The attention recorded while a shipped checkpoint ("convit" or "deit") was trained: see `packing`.

    Each value is right to within a thirtieth of the largest of its row. RecordError if there is no such file.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(folder or shipped()) / scale / f"{name}.attention.safetensors"
    if not path.is_file():
        raise RecordError(
            f"There is no recorded attention {path}; "
            "make it with: python -m convit_edu run checkpoints, into a new folder with --out"
        )
    try:
        with safe_open(path, "np") as file:
            picture = json.loads(file.metadata()["convit_edu"])["picture"]
            steps: dict[int, list[np.ndarray]] = {}
            for step, layer in sorted(tuple(map(int, key.split("."))) for key in file.keys()):
                packed = file.get_tensor(f"{step}.{layer}")  # (H, N, bytes of a row)
                steps.setdefault(step, []).append(unpack(packed, packed.shape[1]))
    except (SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
        raise RecordError(f"{path} is no readable recorded attention ({error}); delete it to make it again.") from error
    return Attention(picture, steps)
