"""`python -m convit_edu demo`: ConViT and DeiT of equal size on a handful of real images, in about two minutes."""

import argparse
import sys
from statistics import mean

from . import create_model, data
from .train import Recipe, train

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
    parser = argparse.ArgumentParser(prog="python -m convit_edu", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("demo", help="train DeiT and ConViT on a few real images and compare them")
    command.add_argument("--images", type=int, default=200, help="training images, balanced over ten classes (200)")
    command.add_argument("--seeds", type=int, default=2, help="how often each model is trained (2)")
    command.add_argument("--steps", type=int, default=300, help="optimiser steps of each run (300)")
    options = parser.parse_args(arguments)
    if min(options.images, options.seeds, options.steps) < 1:
        parser.error("--images, --seeds and --steps must be at least 1.")
    try:
        demo(options.images, options.seeds, options.steps)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
