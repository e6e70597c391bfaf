"""The command line of `convit_edu.imagenet`; the package says what it does."""

import argparse
import ast
import os
import sys
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import get_args

import torch
import torch.distributed as dist

from .. import imagenet
from ..model import CONFIGS, ConViT, create_model
from ..parity import from_timm, timm
from .folders import scan
from .ranks import Ranks, Refusal, is_first
from .recipe import PaperRecipe
from .training import Stopped, Training, accuracy, read_checkpoint, train

OUT = Path("convit_imagenet")  # where the reader stands
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def main(arguments: list[str] | None = None) -> int:
    """Train or evaluate; 0, or 2 after a sentence that says why not, or 128 + the signal that stopped it.

    An error that is no Refusal is raised: torchrun ends the other ranks then.
    """
    options = _parser().parse_args(arguments)
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
    code = 0
    try:
        ranks = Ranks(options.device)
        (_evaluate if options.evaluate else _train)(options, ranks)
    except Refusal as refusal:
        code = 2
        if is_first():
            print(f"error: {refusal}", file=sys.stderr, flush=True)
    except Stopped as stopped:
        code = 128 + stopped.args[0]
        if is_first():
            print(f"Stopped; the same command goes on from {options.out}.", file=sys.stderr, flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()
    return code


def _train(options: argparse.Namespace, ranks: Ranks) -> None:
    train_files, val_files = ranks.agree(lambda: scan(options.data, options.fraction))

    def prepare() -> tuple[PaperRecipe, ConViT]:
        given = {setting.name: getattr(options, setting.name) for setting in fields(PaperRecipe)}
        recipe = PaperRecipe(**given).for_model(options.model, options.fraction)
        recipe.check(len(train_files), ranks.world)
        return recipe, build(options.model, options.set, recipe.seed, len(train_files.classes))

    recipe, model = ranks.agree(prepare)
    about = {"model": options.model, "set": options.set, "fraction": options.fraction}
    training = Training(
        model, recipe, train_files, ranks, options.out, about,
        pick_precision(options.precision, ranks.device), options.max_unreadable,
    )  # fmt: skip
    training.load()
    if is_first():
        print(
            f"{options.model}: {len(train_files):,} training and {len(val_files):,} validation images of "
            f"{len(train_files.classes):,} classes; {training.epochs} epochs of {training.batches.steps} steps, "
            f"{recipe.global_batch} images a step in {recipe.groups} group(s); "
            f"{ranks.world} process(es) on {ranks.device.type}; from step {training.done}",
            flush=True,
        )
    train(training, val_files, options.workers, options.sync_every, options.test_every)


def _evaluate(options: argparse.Namespace, ranks: Ranks) -> None:
    (files,) = ranks.agree(lambda: scan(options.data, splits=("val",)))
    path = Path(options.evaluate)
    own = path.suffix == ".pt" or path.exists()
    precision = pick_precision(options.precision, ranks.device)
    models = ranks.agree(lambda: _from_checkpoint(path) if own else _official(options.evaluate, ranks.rank == 0))
    for name, model in models.items():
        for tensor in model.state_dict().values():  # rank 0 alone has fetched official weights
            ranks.broadcast(tensor)
        classes = model.head.out_features
        if classes != len(files.classes):
            raise Refusal(
                f"{options.evaluate} tells {classes} classes apart, {options.data} has {len(files.classes)}; "
                "give a folder with the classes that it was trained on."
            )
        found = accuracy(model, files, ranks, precision, workers=options.workers, max_unreadable=options.max_unreadable)
        if is_first():
            print(
                f"{name}: top-1 {found['top1']:.2f} %, top-5 {found['top5']:.2f} %, loss {found['val_loss']:.4f}, "
                f"{found['val_images']:,} of {len(files):,} images", flush=True,
            )  # fmt: skip


def build(name: str, overrides: dict, seed: int | None, classes: int) -> ConViT:
    """A named model for colour images of so many classes. ValueError if there is none."""
    try:
        model = create_model(name, seed, **{"num_classes": classes} | overrides)
    except TypeError as error:
        raise ValueError(f"--set names something that no model has ({error}).") from error
    if model.patch_embed.input_shape[0] != 3:
        raise ValueError(f"{name} takes images of one colour; add --set in_chans=3, or take another model.")
    return model


def _from_checkpoint(path: Path) -> dict[str, ConViT]:
    state = read_checkpoint(path)
    about, models = state["identity"], {}
    for label, weights in (("", state["model"]), (", moving average", state["ema"])):
        if weights is not None:
            model = build(about["model"], about["set"], None, about["classes"])
            model.load_state_dict(weights)
            models[f"{path}{label}, {len(state['log']['rows'])} epochs"] = model
    return models


def _official(name: str, fetch: bool) -> dict[str, ConViT]:
    known = [model for model in timm.list_models() if model.startswith(("convit_", "deit_"))]
    if name not in known:
        raise ValueError(
            f"{name} is neither a checkpoint of this program (.pt) nor a model of timm's that this package can take "
            "over; try convit_tiny, convit_small, convit_base or deit_tiny_patch16_224."
        )
    return {f"timm's {name}": from_timm(name, pretrained=fetch)}


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
    add("--data", metavar="ROOT", type=Path, required=True, help="the folder with train/<class>/* and val/<class>/*")
    add("--model", default="convit_tiny", help=f"{', '.join(CONFIGS)} (convit_tiny)")
    add("--set", metavar="NAME=VALUE", type=_assignment, nargs="+", default={}, action=_Assignments,
        help="constructor arguments of the model, such as local_up_to_layer=0")  # fmt: skip
    add("--fraction", type=float, default=1.0, help="share of each class's training images; epochs grow by 1/share")
    add("--evaluate", metavar="NAME", help="do not train: test timm's official weights, or one's own checkpoint.pt")
    add("--out", type=Path, default=OUT, help=f"folder of checkpoint.pt, log.csv and log.json ({OUT})")
    add("--device", default="auto", help="cpu, cuda, mps or auto (auto)")
    add("--precision", choices=PRECISIONS, default="auto", help="auto: bfloat16 or float16 on CUDA, else float32")
    add("--workers", type=_count, default=10, help="processes that read images, for each process that trains (10)")
    add("--sync-every", type=_positive, default=10, help="steps between exchanges of losses and of Ctrl-C (10)")
    add("--test-every", type=_positive, default=1, help="epochs between tests (1)")
    add("--max-unreadable", type=float, default=0.01, help="share of unreadable images that is tolerated (0.01)")
    add("--deterministic", action="store_true", help="kernels that add in a fixed order only; slower")
    recipe = parser.add_argument_group("recipe", "the paper's, by default")
    for setting in fields(PaperRecipe):
        name, words = f"--{setting.name.replace('_', '-')}", setting.metadata["help"]
        if setting.type is bool:
            recipe.add_argument(name, action="store_true", help=words)
            continue
        kind = next(kind for kind in (*get_args(setting.type), setting.type) if kind is not NoneType)
        shown = "" if setting.default is None else f" ({setting.default})"
        recipe.add_argument(name, type=kind, default=setting.default, help=words.replace("%", "%%") + shown)
    return parser


class _Assignments(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, getattr(namespace, self.dest) | dict(values))


def _assignment(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"NAME=VALUE is needed, such as local_up_to_layer=0, got {text}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # a word, such as pool=mean


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"a whole number of at least 0 is needed, got {text}")
    return int(text)


def _positive(text: str) -> int:
    if _count(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is needed, got {text}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
