"""Time and memory of one attention layer: GPSA with and without its N x N matrices, timm's, and plain attention.

    python benchmarks/attention.py            # a choice of cases, under three minutes on two CPU cores
    python benchmarks/attention.py --full     # everything

All rows of a case have the same input and weights, those that a ConViT starts with; before anything is timed,
those that should agree are compared. bfloat16 means autocast over float32 weights, as people train. A training
step is forward and backward, down to the gradient of the layer's input; no loss and no optimiser.
"""

import argparse
import sys
from dataclasses import dataclass
from itertools import product

import harness
import torch
from torch import Tensor, nn

from convit_edu import GPSA, SelfAttention
from convit_edu.parity import relative_difference, timm
from convit_edu.positions import Grid

SIZES = {"Ti": (192, 4), "S": (432, 9), "B": (768, 16)}  # D, H
GRIDS = [(7, 7), (14, 14), (28, 28), (48, 80), (64, 64)]
BATCH = {"cpu": dict(zip(GRIDS, (128, 32, 4, 1, 1))), "cuda": dict(zip(GRIDS, (1024, 256, 64, 16, 16)))}
MODES = ("forward", "training")
LABELS = {
    "gpsa": "GPSA",
    "gpsa_readable": "GPSA, readable",
    "timm_gpsa": "timm's GPSA",
    "timm_attention": "timm's plain",
    "self_attention": "SelfAttention",
}
COPIES = {"forward": 4, "training": 10}  # N x N matrices a head that a form which stores them holds at once


@dataclass(frozen=True)
class Case:
    size: str
    grid: tuple[int, int]
    mode: str
    precision: str
    device: str
    compiled: bool
    batch: int

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]


class ReadableGPSA(GPSA):
    """Our GPSA that always stores its attention: weights(x) @ v."""

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        (v,) = self._split_heads(self.v(x), 1)  # (B, H, N, d)
        heads = self.weights(x, grid).to(v.dtype) @ v  # (B, H, N, d)
        return self.proj(heads.transpose(1, 2).flatten(2))


def all_cases(options: argparse.Namespace) -> list[Case]:
    """Every case of the preset on every device asked for."""

    def wanted(size, grid, precision, device) -> bool:
        if options.full or (grid == (14, 14) and size != "B"):
            return True
        return size == "Ti" and (precision == "float32" or device == "cuda")

    compiled = (False, True) if options.compile else (False,)
    return [
        Case(size, grid, mode, precision, device, compile, options.batch or BATCH[device][grid])
        for device, compile, precision, size, grid, mode in product(
            options.device, compiled, harness.PRECISIONS, SIZES, GRIDS, MODES
        )
        if wanted(size, grid, precision, device)
    ]


def layers(case: Case) -> dict[str, nn.Module]:
    """The layers of all rows, with the same weights."""
    dim, heads = SIZES[case.size]
    torch.manual_seed(0)
    gpsa, readable, theirs = GPSA(dim, heads), ReadableGPSA(dim, heads), timm.models.convit.GPSA(dim, heads)
    readable.load_state_dict(gpsa.state_dict())
    theirs.load_state_dict(gpsa.state_dict())
    plain, attention = SelfAttention(dim, heads), timm.models.vision_transformer.Attention(dim, heads)
    state = {
        "qkv.weight": torch.cat((gpsa.qk.weight, gpsa.v.weight)),
        "proj.weight": gpsa.proj.weight,
        "proj.bias": gpsa.proj.bias,
    }
    plain.load_state_dict(state)
    attention.load_state_dict(state)
    return {row: layer.to(case.device) for row, layer in zip(LABELS, (gpsa, readable, theirs, attention, plain))}


def skipped(case: Case, row: str) -> str | None:
    """Why a row is left out, if it is."""
    if row == "timm_gpsa" and case.grid[0] != case.grid[1]:
        return "takes square grids only"
    stored = COPIES[case.mode] * case.batch * SIZES[case.size][1] * case.tokens**2 * 4
    if row in ("gpsa_readable", "timm_gpsa") and stored > harness.memory_limit(case.device):
        return f"would need about {stored / 1e9:.2g} GB"
    return None


def callable_for(layer: nn.Module, x: Tensor, case: Case):
    """(the layer as a function of x, a function without arguments that does the case's work once)"""
    takes_grid = isinstance(layer, GPSA | SelfAttention)
    forward = (lambda x: layer(x, case.grid)) if takes_grid else (lambda x: layer(x))
    run = torch.compile(forward) if case.compiled else forward
    x = x.clone().requires_grad_(case.mode == "training")
    probe = torch.randn_like(x)  # the gradient that would come from the layers above

    def training() -> None:
        with harness.autocast(case.device, case.precision):
            output = run(x)
        output.backward(probe.to(output.dtype))
        layer.zero_grad()
        x.grad = None

    @torch.no_grad()
    def inference() -> None:
        with harness.autocast(case.device, case.precision):
            run(x)

    return forward, training if case.mode == "training" else inference


def measure(case: Case, options: argparse.Namespace) -> harness.Measured:
    """Time, and for a training step peak memory, of all rows."""
    torch.compiler.reset()
    built = layers(case)
    reasons = {row: reason for row in built if (reason := skipped(case, row))}
    x = torch.randn(case.batch, case.tokens, SIZES[case.size][0], device=case.device)
    pairs = {row: callable_for(layer, x, case) for row, layer in built.items() if row not in reasons}
    with torch.no_grad():
        outputs = {row: forward(x[:1]) for row, (forward, _) in pairs.items()}
    for row, output in outputs.items():
        difference = relative_difference(output, outputs["gpsa" if "gpsa" in row else "timm_attention"])
        assert difference < 1e-3, f"{LABELS[row]} differs from its twin by {difference}"
    calls = {row: call for row, (_, call) in pairs.items()}
    found = harness.times_and_memory(calls, case, options)
    return {row: {"skipped": reasons[row]} if row in reasons else found[row] for row in LABELS}


def estimate(case: Case, options: argparse.Namespace) -> float:
    """Seconds that a case takes, from its products (at 100 Gflop/s) and its stored matrices (at 0.3 GB/s)."""
    if case.device == "cuda":
        return 2 * options.seconds
    dim, heads = SIZES[case.size]
    products = case.batch * (8 * case.tokens * dim**2 + 4 * case.tokens**2 * dim) / 100e9
    matrices = case.batch * heads * case.tokens**2 * 4 / 0.3e9
    stored = sum(skipped(case, row) is None for row in ("gpsa_readable", "timm_gpsa"))
    once = (3 if case.mode == "training" else 1) * ((3 + stored) * products + stored * matrices)
    warm_up = 5 * len(LABELS) if case.compiled else 2 * once
    return warm_up + harness.expected_rounds(once, options) * once


def grid(text: str) -> tuple[int, int]:
    """14 or 48x80."""
    rows, _, columns = text.partition("x")
    return int(rows), int(columns or rows)


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__.splitlines()[0])
    harness.selection(parser, "size", SIZES)
    harness.selection(parser, "grid", GRIDS, type=grid)
    harness.selection(parser, "mode", MODES)
    harness.selection(parser, "precision", harness.PRECISIONS)
    harness.compilable(parser)
    benchmark = harness.Benchmark("attention", LABELS, ("timm_gpsa", "timm_attention"), measure, estimate, (3, 15))
    return harness.main(benchmark, parser, all_cases, arguments)


if __name__ == "__main__":
    sys.exit(main())
