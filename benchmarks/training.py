"""Images per second of one training step: our ConViT and DeiT against timm's, at 224 and at 28 pixels; and of a
whole step of our training loop, with its data and augmentation.

    python benchmarks/training.py           # float32, about a minute on two CPU cores
    python benchmarks/training.py --full    # bfloat16 too, more rounds

A step is forward, loss, backward and AdamW. Ours and timm's have the same weights and, checked first, the same
outputs; timm's counterpart of our DeiT is its VisionTransformer. The loop is measured at 28 pixels, where it weighs
most; on CUDA also the share of the time in which the GPU computes, and with torch.compile.
"""

import argparse
import sys

import harness
import networks

BATCH = {"cpu": {"convit_tiny": 8, "convit_mini_28": 64}, "cuda": {"convit_tiny": 256, "convit_mini_28": 1024}}


def all_cases(options: argparse.Namespace) -> list[networks.Case]:
    """Every case of the preset on every device asked for."""
    steps = [
        networks.Case(model, "training", precision, device, False, options.batch or batch)
        for device in options.device
        for precision in (harness.PRECISIONS if options.full else ("float32",))
        for model, batch in BATCH[device].items()
    ]
    loops = [
        networks.Case("convit_mini_28", "loop", precision, device, compiled, options.batch or batch)
        for device, batch in (("cpu", 64), ("cuda", 1024))
        if device in options.device
        for precision in (("float32",) if device == "cpu" else ("bfloat16",))
        for compiled in ((False,) if device == "cpu" else (False, True))
    ]
    return steps + loops


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__.splitlines()[0])
    harness.selection(parser, "model", BATCH["cpu"])
    return harness.main(networks.benchmark("training", (25, 60)), parser, all_cases, arguments)


if __name__ == "__main__":
    sys.exit(main())
