"""The command line of `convit_edu.imagenet`; the package says what it does."""

import argparse
import ast
import contextlib
import os
import sys
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import get_args

import torch
import torch.distributed as dist

from .. import imagenet
from ..data import whole
from ..model import CONFIGS, ConViT, create_model
from ..parity import from_timm, timm
from ..saving import one_writer, read_checkpoint
from .folders import scan
from .ranks import Ranks, Refusal
from .recipe import PaperRecipe
from .training import Stopped, Training, accuracy, train


def main(arguments: list[str] | None = None) -> int:
    """Train or evaluate; 0, or 2 after a sentence that says why not, or 128 + the signal that stopped it.

    An error that is no Refusal is raised: torchrun ends the other ranks then.
    """
    options = _parser().parse_args(arguments)
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
    try:
        ranks = Ranks(options.device)
        (_evaluate if options.evaluate else _train)(options, ranks)
    except Refusal as refusal:
        if words := str(refusal).rstrip().rsplit("Refusal: ")[-1]:  # a worker's comes with a traceback before it
            print(f"error: {words}", file=sys.stderr, flush=True)
        return 2
    except Stopped as stopped:
        if ranks.rank == 0:
            print(f"Stopped; the same command goes on from {options.out}.", file=sys.stderr, flush=True)
        return 128 + stopped.args[0]
    return 0


def _train(options: argparse.Namespace, ranks: Ranks) -> None:
    def prepare():
        whole("--workers", options.workers, 0)
        whole("--sync-every", options.sync_every, 1)
        given = {setting.name: getattr(options, setting.name) for setting in fields(PaperRecipe)}
        recipe = PaperRecipe(**given)  # refuses before a million files are listed
        files, val = scan(options.data, options.fraction)
        recipe = recipe.for_model(options.model, options.fraction)
        recipe.check(len(files), ranks.world)
        return recipe, files, val, build(options.model, dict(options.set), recipe.seed, len(files.classes))

    recipe, files, val, model = ranks.agree(prepare)
    about = {"model": options.model, "set": dict(options.set), "fraction": options.fraction}
    precision = pick_precision(options.precision, ranks.device)
    training = Training(model, recipe, files, ranks, options.out, about, precision)
    with contextlib.ExitStack() as held:
        ranks.agree(lambda: ranks.rank == 0 and held.enter_context(one_writer(training.path)))
        training.load()
        if ranks.rank == 0:
            print(
                f"{files.left_out}{options.model}: {len(files):,} training and {len(val):,} validation images of "
                f"{len(files.classes):,} classes; {recipe.epochs} epochs of {training.batches.steps} steps, "
                f"{recipe.global_batch} images a step in {recipe.groups} group(s); "
                f"{ranks.world} process(es) on {ranks.device.type}; from step {training.done}",
                flush=True,
            )
        train(training, val, options.workers, options.sync_every)


def _evaluate(options: argparse.Namespace, ranks: Ranks) -> None:
    path, precision = Path(options.evaluate).expanduser(), pick_precision(options.precision, ranks.device)
    find = _from_checkpoint if path.suffix == ".pt" or path.is_file() else _official
    if ranks.world > 1:  # rank 0 fetches official weights, which the others then find
        ranks.agree(lambda: find(path) if ranks.rank == 0 else None)
    name, model, classes = ranks.agree(lambda: find(path))
    (files,) = ranks.agree(lambda: scan(options.data, splits=("val",)))
    present = len(files.classes)
    files = ranks.agree(lambda: files.labelled_for(classes, options.evaluate))
    found = accuracy(model, files, ranks, precision, workers=options.workers)
    if ranks.rank == 0:
        print(
            f"{files.left_out}{name}: top-1 {found['top1']:.2f} %, top-5 {found['top5']:.2f} %, "
            f"loss {found['val_loss']:.4f}, {len(files):,} images of {present} of its {len(classes)} classes",
            flush=True,
        )


def build(name: str, overrides: dict, seed: int | None, classes: int) -> ConViT:
    """A named model for colour images of so many classes. ValueError if there is none."""
    try:
        model = create_model(name, seed, **{"num_classes": classes} | overrides)
    except TypeError as error:
        raise ValueError(f"--set names something that no model has ({error}).") from error
    if model.patch_embed.input_shape[0] != 3:
        raise ValueError(f"{name} takes images of one colour; add --set in_chans=3, or take another model.")
    return model


def _from_checkpoint(path: Path) -> tuple[str, ConViT, tuple[str, ...]]:
    """What to call the model of a checkpoint of one's own, the model, and the names of its classes."""
    state = read_checkpoint(path)
    about = state["identity"]
    if not {"model", "set", "classes"} <= about.keys():
        raise ValueError(f"{path} is a checkpoint of another program, or of an earlier version; give another.")
    model = build(about["model"], about["set"], None, len(about["classes"]))
    model.load_state_dict(state["model"])
    return f"{path}, {len(state['history']['epochs'])} epochs", model, tuple(about["classes"])


def _official(name: Path) -> tuple[str, ConViT, tuple[str, ...]]:
    known = [model for model in timm.list_models() if model.startswith(("convit_", "deit_"))]
    if str(name) not in known:
        raise ValueError(
            f"{name} is neither a checkpoint of this program (.pt) nor a model of timm's that this package can take "
            "over; try convit_tiny, convit_small, convit_base or deit_tiny_patch16_224."
        )
    return f"timm's {name}", from_timm(str(name), pretrained=True), tuple(timm.data.ImageNetInfo().label_names())


def pick_precision(precision: str, device: torch.device) -> str:
    """What "auto" is: as the original on a GPU, with bfloat16 where there is some; float32 elsewhere."""
    if precision != "auto":
        return precision
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m convit_edu.imagenet", description=imagenet.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--data", metavar="ROOT", type=_path, required=True, help="the folder with train/<class>/* and val/<class>/*")
    add("--model", default="convit_tiny", help=f"{', '.join(CONFIGS)} (convit_tiny)")
    add("--set", metavar="NAME=VALUE", type=_assignment, nargs="+", default=[], action="extend",
        help="constructor arguments of the model, such as local_up_to_layer=0")  # fmt: skip
    add("--fraction", type=float, default=1.0, help="share of each class's training images; epochs grow by 1/share")
    add("--evaluate", metavar="NAME", help="do not train: test timm's official weights, or one's own checkpoint.pt; "
        "classes are matched by the names of their folders")  # fmt: skip
    add("--out", metavar="FOLDER", type=_path, default="convit_imagenet",
        help="folder of checkpoint.pt and log.json (convit_imagenet)")  # fmt: skip
    add("--device", default="auto", help="cpu, cuda, mps or auto (auto)")
    add("--precision", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
        help="auto: bfloat16 or float16 on CUDA, else float32")  # fmt: skip
    add("--workers", type=int, default=10, help="processes that read images, for each process that trains (10)")
    add("--sync-every", type=int, default=10, help="steps between exchanges of losses and of Ctrl-C (10)")
    add("--deterministic", action="store_true", help="kernels that add in a fixed order only; slower")
    recipe = parser.add_argument_group("recipe", "the paper's, by default")
    for setting in fields(PaperRecipe):
        name, words = f"--{setting.name.replace('_', '-')}", setting.metadata["help"].replace("%", "%%")
        if setting.type is bool:
            recipe.add_argument(name, action="store_true", help=words)
            continue
        kind = next(kind for kind in (*get_args(setting.type), setting.type) if kind is not NoneType)
        shown = "" if setting.default is None else f" ({setting.default})"
        recipe.add_argument(name, type=kind, default=setting.default, help=words + shown)
    return parser


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _assignment(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if name == "num_classes":
        raise argparse.ArgumentTypeError("the folders say how many classes there are; leave out num_classes")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"NAME=VALUE is needed, such as local_up_to_layer=0, got {text}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # a word, such as pool=mean


if __name__ == "__main__":
    code = main()
    if dist.is_initialized():
        # Taken down in an interpreter that still runs, gloo may wait for ever: it holds Python's lock and waits for a
        # thread of its own, which waits for that lock to give back a tensor.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
