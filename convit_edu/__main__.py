"""`python -m convit_edu demo | run | list | report`: the two-minute comparison, and the recorded experiments."""

import argparse
import sys
from pathlib import Path
from statistics import mean

from . import create_model, data
from .lab import report
from .lab.experiments import NAMES
from .lab.scales import SCALES
from .train import Recipe, train

OUT = Path("convit_records")  # where the reader stands, never the installed package

ARMS = {"DeiT": {"local_up_to_layer": 0}, "ConViT": {}}


def demo(images: int, seeds: int, steps: int) -> None:
    """Train both models with each seed and print the comparison."""
    embedded = data.load("fashion_mnist_5k")
    parameters = sum(p.numel() for p in create_model("convit_mini_28").parameters())
    print(
        f"Fashion-MNIST, {images} training images, {len(embedded.test_labels)} test images. Two models of about "
        f"{parameters:,} parameters,\n{steps} steps each, {seeds} seed(s). Chance is 10 %.\n"
    )
    accuracy: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in range(seeds):
        subset = embedded.subset(size=images, seed=seed)
        for arm, overrides in ARMS.items():
            model = create_model("convit_mini_28", seed=seed, **overrides)
            recipe = Recipe(steps=steps, seed=seed, evaluations=3)
            history = train(model, subset, recipe, label=f"{arm:6} seed {seed}")
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
        f"another question, and {seeds} seed(s) are few; more of both: --seeds 5 --steps 1800. The book (make book)\n"
        "explains the mechanism, from chapter 4 on."
    )


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return options.function(options) or 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. What was recorded is kept; the same command goes on from there.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m convit_edu", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("demo", help="train DeiT and ConViT on a few real images and compare them")
    command.add_argument("--images", type=positive, default=200, help="training images, over ten classes (200)")
    command.add_argument("--seeds", type=positive, default=2, help="how often each model is trained (2)")
    command.add_argument("--steps", type=positive, default=300, help="optimiser steps of each run (300)")
    command.set_defaults(function=lambda options: demo(options.images, options.seeds, options.steps))

    command = commands.add_parser("run", help="run recorded experiments; the same command goes on where it stopped")
    command.add_argument("names", nargs="+", metavar="NAME", help=f"all, or some of: {', '.join(NAMES)}")
    command.add_argument("--scale", default="laptop", help=f"one of {', '.join(SCALES)} (laptop)")
    command.add_argument("--device", default="auto", help="cpu, cuda, mps or auto (auto)")
    command.add_argument("--jobs", type=positive, help="runs side by side (a CPU: one a core; a GPU: four)")
    command.add_argument("--seeds", type=positive, help="seeds of each run (laptop: 5, gpu: 3)")
    command.add_argument("--data", metavar="ROOT", help="the folder with CIFAR-100 or Imagenette, for scale gpu")
    command.add_argument("--out", type=Path, default=OUT, help=f"the folder to record into ({OUT})")
    command.set_defaults(function=_run)

    command = commands.add_parser("list", help="what experiments there are, and what is recorded of them")
    command.add_argument("--out", type=Path, default=OUT, help=f"your own records ({OUT})")
    command.set_defaults(function=lambda options: print(report.listing(options.out)))

    command = commands.add_parser("report", help="tables, intervals and verdicts from the records")
    command.add_argument("names", nargs="*", metavar="NAME", help="experiments (all)")
    command.add_argument("--scale", help="only this scale (all that are recorded)")
    command.add_argument("--out", type=Path, default=OUT, help=f"your own records, shown beside the shipped ({OUT})")
    command.set_defaults(function=lambda options: print(report.text(options.names, options.scale, options.out)))
    return parser


def _run(options: argparse.Namespace) -> int:
    from .lab import campaign

    names = list(NAMES) if options.names == ["all"] else options.names
    failed = campaign.run(
        names, options.scale, options.device, options.jobs, options.seeds, options.data, options.out
    )
    if failed:
        print(f"{failed} run(s) failed; their reasons are recorded, and the same command tries them again.")
    return 1 if failed else 0


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is needed, got {text}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
