"""Images per second of whole models: ConViT and the DeiT of equal width, ours and timm's.

    python benchmarks/model.py                      # tiny, float32, under a minute on two CPU cores
    python benchmarks/model.py --full --compile     # tiny, small and base, both precisions, with torch.compile too

Ours and timm's have the same weights and, checked first, the same outputs. The DeiT of a ConViT has its width,
depth and heads, and plain attention in all layers. Training is forward, loss, backward and AdamW at 224 x 224
pixels; bfloat16 means autocast over float32 weights.
"""

import argparse
import sys
from itertools import product

import harness
import networks

BATCH = {
    "cpu": {"convit_tiny": 8, "convit_small": 4, "convit_base": 4},
    "cuda": {"convit_tiny": 256, "convit_small": 128, "convit_base": 64},
}


def all_cases(options: argparse.Namespace) -> list[networks.Case]:
    """Every case of the preset on every device asked for."""
    return [
        networks.Case(model, mode, precision, device, compiled, options.batch or batch)
        for device in options.device
        for compiled, precision, (model, batch), mode in product(
            (False, True) if options.compile else (False,), harness.PRECISIONS, BATCH[device].items(), networks.MODES
        )
        if options.full or (model == "convit_tiny" and precision == "float32")
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__.splitlines()[0])
    harness.selection(parser, "model", BATCH["cpu"])
    harness.selection(parser, "mode", networks.MODES)
    harness.selection(parser, "precision", harness.PRECISIONS)
    harness.compilable(parser)
    return harness.main(networks.benchmark("model", (15, 30)), parser, all_cases, arguments)


if __name__ == "__main__":
    sys.exit(main())
