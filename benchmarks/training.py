"""Images per second of one training step: our ConViT and DeiT against timm's, at 224 and at 28 pixels.

    python benchmarks/training.py           # float32, about a minute on two CPU cores
    python benchmarks/training.py --full    # bfloat16 too, more rounds

A step is forward, loss, backward and AdamW. Ours and timm's have the same weights and, checked first, the same
outputs; timm's counterpart of our DeiT is its VisionTransformer.
"""

import argparse
import sys

import harness
import networks

BATCH = {"cpu": {"convit_tiny": 8, "convit_mini_28": 64}, "cuda": {"convit_tiny": 256, "convit_mini_28": 1024}}


def all_cases(options: argparse.Namespace) -> list[networks.Case]:
    """Every case of the preset on every device asked for."""
    return [
        networks.Case(model, "training", precision, device, False, options.batch or batch)
        for device in options.device
        for precision in (harness.PRECISIONS if options.full else ("float32",))
        for model, batch in BATCH[device].items()
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__.splitlines()[0])
    harness.selection(parser, "model", BATCH["cpu"])
    return harness.main(networks.benchmark("training", (25, 60)), parser, all_cases, arguments)


if __name__ == "__main__":
    sys.exit(main())
