"""ConViT and DeiT: the one-minute comparison, and the recorded experiments of the book.

`python -m convit_edu` is the same program.
"""

import argparse
import difflib
import os
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from . import __version__, create_model, data
from .evaluation import usable_device
from .train import Recipe, train

OUT = Path("convit_records")  # where the reader stands, never the installed package

COMMANDS = {
    "demo": "train DeiT and ConViT on a few real images and compare them",
    "run": "run recorded experiments; the same command goes on where it stopped",
    "list": "what experiments there are, and what is recorded of them",
    "report": "tables, intervals and verdicts from the records",
}
# The network of chapters 06 to 09, and the two arms.
NETWORK: dict[str, Any] = {"name": "convit_mini_28", "embed_dim": 54, "depth": 4}
ARMS: dict[str, dict[str, Any]] = {"DeiT": {"local_up_to_layer": 0}, "ConViT": {"local_up_to_layer": 3}}


def demo(images: int, seeds: int, steps: int, device: str = "auto") -> None:
    """Train both models with each seed and print the comparison."""
    where, embedded = usable_device(device), data.load("fashion_mnist_5k")
    parameters = sum(p.numel() for p in create_model(**NETWORK).parameters())
    print(
        f"Fashion-MNIST, {images} training images, {len(embedded.test_labels)} test images. Two models of about "
        f"{parameters:,} parameters,\n{steps} steps each, {seeds} seed(s). Chance is 10 %.\n"
    )
    accuracy: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in range(seeds):
        subset = embedded.subset(size=images, seed=seed)
        for arm, overrides in ARMS.items():
            model = create_model(**NETWORK, seed=seed, **overrides)
            recipe = Recipe(steps=steps, batch_size=50, lr=2e-3, warmup_steps=steps // 5, seed=seed, evaluations=3)
            history = train(model, subset, recipe, where, label=f"{arm:6} seed {seed}")
            accuracy[arm].append(history.final_accuracy)
    print("\nTest accuracy in per cent, after the last step")
    print("  seed   " + "".join(f"{arm:>8}" for arm in ARMS) + "     gap")
    for seed, pair in enumerate(zip(*accuracy.values(), strict=True)):
        print(f"  {seed:<7}" + "".join(f"{value:8.1f}" for value in pair) + f"{pair[1] - pair[0]:+8.1f}")
    deit, convit = (mean(values) for values in accuracy.values())
    print(f"  mean   {deit:8.1f}{convit:8.1f}{convit - deit:+8.1f}\n")
    print(
        "The two differ in how the first layers start and mix, not in size, data or training. What this shows is\n"
        "that ConViT learns sooner: with so few steps neither model is done. Whether it also needs less data is\n"
        f"another question, and {seeds} seed(s) are few; more of both: --seeds 5 --steps 600. The book (make book)\n"
        "explains the mechanism, from chapter 4 on."
    )


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    command = next((word for word in arguments if not word.startswith("-")), "")
    if command and command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        print(f"error: Unknown command {command!r}{hint}; known: {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    options = _parser().parse_args(arguments)
    try:
        failed = options.function(options) or 0
        sys.stdout.flush()
        return failed
    except BrokenPipeError:  # whoever reads has seen enough, as in: convit-edu report | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left has somewhere to go
        return 141
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = " What was recorded is kept; the same command goes on from there." if options.command == "run" else ""
        print(f"\nStopped.{kept}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convit-edu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="The paper's own recipe, on ImageNet, is a program of its own: python -m convit_edu.imagenet --help",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"convit_edu {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("demo", help=COMMANDS["demo"])
    command.add_argument("--images", type=positive, default=100, help="training images, over ten classes (100)")
    command.add_argument("--seeds", type=positive, default=2, help="how often each model is trained (2)")
    command.add_argument("--steps", type=positive, default=100, help="optimiser steps of each run (100)")
    command.add_argument("--device", default="auto", help="cpu, cuda, mps or auto (auto)")
    command.set_defaults(function=lambda options: demo(options.images, options.seeds, options.steps, options.device))

    command = commands.add_parser("run", help=COMMANDS["run"])
    command.add_argument("names", nargs="+", metavar="NAME", help="all, or some of what `convit-edu list` shows")
    command.add_argument("--scale", default="laptop", help="laptop, colour, gpu, or NAME-rehearsal, to try one")
    command.add_argument("--device", default="auto", help="cpu, cuda, mps or auto (auto)")
    command.add_argument("--jobs", type=positive, help="runs side by side (a CPU: one a core; a GPU: four)")
    command.add_argument("--seeds", type=positive, help="seeds of each run (5, of some 10; gpu: 3)")
    command.add_argument("--data", type=folder, metavar="ROOT", help="the folder with CIFAR-100 or Imagenette")
    command.add_argument("--out", type=folder, default=OUT, help=f"the folder to record into ({OUT})")
    command.set_defaults(function=_run)

    command = commands.add_parser("list", help=COMMANDS["list"])
    command.add_argument("--out", type=folder, default=OUT, help=f"your own records ({OUT})")
    command.set_defaults(function=_list)

    command = commands.add_parser("report", help=COMMANDS["report"])
    command.add_argument("names", nargs="*", metavar="NAME", help="experiments (all)")
    command.add_argument("--scale", help="only this scale (all that are recorded)")
    command.add_argument("--out", type=folder, default=OUT, help=f"your own records, shown beside the shipped ({OUT})")
    command.set_defaults(function=_report)
    return parser


# The laboratory is loaded when it is asked for: the demonstration needs none of it.


def _run(options: argparse.Namespace) -> int:
    from .lab import campaign, experiments

    names = dict.fromkeys(each for name in options.names for each in (experiments.NAMES if name == "all" else [name]))
    failed = campaign.run(
        list(names), options.scale, options.device, options.jobs, options.seeds, options.data, options.out
    )
    if failed:
        print(f"{failed} run(s) failed; their reasons are recorded, and the same command tries them again.")
    return 1 if failed else 0


def _list(options: argparse.Namespace) -> None:
    from .lab import report

    print(report.listing(options.out))


def _report(options: argparse.Namespace) -> None:
    from .lab import report

    print(report.text(options.names, options.scale, options.out))


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is needed, got {text}")
    return int(text)


def folder(text: str) -> Path:
    return Path(text).expanduser()


if __name__ == "__main__":
    sys.exit(main())
