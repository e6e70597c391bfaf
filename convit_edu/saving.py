"""Saving: whole files or none, one writer at a time, and checkpoints that know which run they belong to."""

import hashlib
import inspect
import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from .data import Dataset


def write_in_one_move(path: str | Path, content: bytes) -> None:
    """Write `content` to `path`, making its folder: whoever is killed on the way leaves the old file or the new.

    "~" is the home folder. Raises OSError, as any writing does; then the old file is as it was, and no temporary one
    stays.
    """
    path = Path(path).expanduser()
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):  # no such folder, or a read-only one: the error on its way says it
            temporary.unlink(missing_ok=True)


@contextmanager
def one_writer(path: str | Path) -> Iterator[None]:
    """Be the only one who writes `path` within this context; the system lets go when a process dies.

    Its folder is made. Raises OSError where another run writes it, or where no file can be written.
    """
    path = Path(path).expanduser()
    lock = FileLock(path.with_name(path.name + ".lock"))
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise OSError(f"{path} is being written by another run; wait for it, stop it, or give another path.") from None
    except OSError as error:
        raise type(error)(f"{path} cannot be written ({error.strerror or error}); give another path.") from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            os.unlink(lock.lock_file)
        lock.release()


# --- checkpoints of a training run


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile, DataParallel and other wrappers, which add nothing to it but a name."""
    while list(model._modules) in (["_orig_mod"], ["module"]) and not model._parameters:
        (model,) = model.children()
    return model


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The state dict by the names that it has without torch.compile or a wrapper; shares memory with the model."""
    return {name.replace("_orig_mod.", ""): value for name, value in unwrapped(model).state_dict().items()}


@torch.no_grad()
def set_weights(model: nn.Module, saved: dict[str, Tensor]) -> None:
    """Put saved `weights` into a model, compiled, wrapped or plain."""
    for name, value in weights(model).items():
        value.copy_(saved[name])


def checksum(model: nn.Module) -> str:
    """16 hexadecimal digits that depend on a model's weights and their names."""
    digest = hashlib.sha256()
    for name, value in weights(model).items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def name_of(function: Callable | None) -> str:
    """What a checkpoint knows a loss or a measure by: its `identity`, or else the name of a function.

    ValueError where neither will do: functions made within functions, lambdas and objects may share a name and differ.
    """
    if function is None:
        return "the usual"
    name = getattr(function, "identity", "") or (inspect.isfunction(function) and function.__qualname__)
    if not isinstance(name, str) or "<" in name:
        raise ValueError(
            f"A checkpoint cannot tell {function!r} from others like it; set its attribute `identity` to a string that "
            "says what it does and with which settings, or train without a checkpoint."
        )
    return name


def identity_of(model: nn.Module, data: Dataset, recipe: Any, loss: Callable | None, measure: Callable | None) -> dict:
    """All that makes a run this run, by name: a checkpoint goes on with what has the same."""
    model = unwrapped(model)
    config = getattr(model, "config", {})
    config = config if isinstance(config, Mapping) else asdict(config)
    return (
        {f"model.{name}": value for name, value in config.items()}
        | {"model": type(model).__name__, "initial weights": checksum(model)}
        | {"frozen parameters": [name for name, value in model.named_parameters() if not value.requires_grad]}
        | {f"recipe.{name}": value for name, value in asdict(recipe).items()}
        | {"data.name": data.name, "data.checksum": data.checksum(), "data.classes": list(data.classes)}
        | {"data.mean": data.mean.tolist(), "data.std": data.std.tolist()}
        | {"loss": name_of(loss), "measure": name_of(measure)}
    )


def storable(value: object, name: str) -> object:
    """A measured value as a checkpoint can read it back: numbers, words, tensors on the CPU, lists, dicts."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [storable(each, name) for each in value]
    if isinstance(value, dict):
        return {key: storable(each, name) for key, each in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"A measure gives numbers, tensors, lists and dicts; {name!r} holds a {type(value).__name__}.")


def save_checkpoint(
    path: Path, identity: dict, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, history: Any
) -> None:
    """Write a run after so many steps, its history being a dataclass; with the plain names of the model's weights."""
    content = io.BytesIO()
    state = {"identity": identity, "step": step, "model": weights(model), "optimizer": optimizer.state_dict()}
    torch.save(state | {"history": asdict(history)}, content)
    write_in_one_move(path, content.getvalue())


def read_checkpoint(path: Path) -> dict:
    """What `save_checkpoint` wrote to `path`, on the CPU.

    Raises OSError for a file that cannot be opened, and ValueError for one that is no checkpoint.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise type(error)(
            f"The checkpoint {path} cannot be opened ({error.strerror}) and may well be whole; make it readable, "
            "or give another path."
        ) from error
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if not (state["identity"] and state["model"]):
            raise ValueError("empty")
        return state
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable checkpoint: it is damaged, or something else. Give another path, or move it "
            "away to train from the start."
        ) from error


def load_checkpoint(path: Path, identity: dict, recipe: Any) -> dict:
    """The state saved in `path`, if it is that of the run with this identity.

    A setting of the recipe that the file does not know is younger than it: the run had what is now the default.

    Raises what `read_checkpoint` raises, and ValueError for the checkpoint of another run.
    """
    state = read_checkpoint(path)
    there = {f"recipe.{setting.name}": setting.default for setting in fields(recipe)} | state["identity"]
    differing = [name for name in identity | there if identity.get(name) != there.get(name)]
    if differing:
        raise ValueError(
            f"{path} is the checkpoint of another run (it differs in {', '.join(differing)}). Give every run a path of "
            "its own; to go on with this one, make model, data, recipe, loss and measure as they were at its start."
        )
    return state
