"""Checks for the exercises of chapter 03: a convolution, written as attention."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attention import GPSA
from .verdict import NotYet, close, diagnose, exercise, random_tensor, tensor


@exercise
def check_centres(centres: Callable[[Tensor], Tensor]) -> None:
    """A function (weight (H, 3)) -> the centres (H, 2) of the heads with these `pos_proj` weights, as (x, y)."""
    weight = torch.tensor([[2.0, -6.0, -1.0], [0.5, 1.5, -0.5], [3.0, 0.0, -3.0]], dtype=torch.float64)
    answer = tensor(centres(weight.clone()), (3, 2))
    linear, alpha = weight[:, :2], -weight[:, 2:]
    right = linear / (2 * alpha)
    mistakes = {
        "the sign is wrong: alpha is minus the third weight.": -right,
        "the 2 is missing: the first two weights are 2 alpha Delta.": linear / alpha,
        "divide by alpha, too: the first two weights are 2 alpha Delta.": linear / 2,
        "x and y are swapped: the first weight belongs to x, the column.": right.flip(1),
        "these are the first two weights; they are 2 alpha Delta.": linear,
        "multiply by 1 / (2 alpha), not by alpha / 2.": linear * alpha / 2,
    }
    diagnose(answer, right, mistakes, "compare (w_x, w_y, w_d) with alpha (2 Delta_x, 2 Delta_y, -1).")


@exercise
def check_sharing(count: Callable[[tuple[float, float]], int]) -> None:
    """A function (centre (x, y)) -> how many patches share the attention as alpha grows without bound."""
    cases = {(1.0, 0.0): 1, (0.5, -0.5): 4, (0.5, 1.0): 2, (-1.5, 0.5): 4, (0.0, -1.5): 2, (0.25, 0.0): 1}
    for (x, y), right in cases.items():
        given = int(tensor(count((x, y)), ()))
        if given == right:
            continue
        words = f"a centre of (x={x}, y={y}) has {right} nearest, you answer {given}"
        if (x, y) == (0.25, 0.0):
            raise NotYet(f"{words}; only halves make ties: 0.25 is nearer to 0 than to 1.")
        if (x, y) == (0.5, 1.0) and given == 4:
            raise NotYet(f"{words}; here only x is half-way between patches.")
        if right == 4 and given == 2:
            raise NotYet(f"{words}; x and y are both half-way, two choices each.")
        raise NotYet(f"{words}; count the patches at the smallest distance from the centre.")


@exercise
def check_dense_weights(weights: Callable[[Tensor], Tensor]) -> None:
    """A function (kernel (C_out, C_in, 3, 3)) -> W_out (C_out, 9 * C_in) for nine heads that copy all C_in channels."""
    kernel = random_tensor(0, 2, 3, 3, 3)  # (C_out, C_in, row, column)
    answer = tensor(weights(kernel.clone()), (2, 27))

    def blocks(k: Tensor) -> Tensor:
        """Head by head, column of the kernel before row; within a head channel by channel."""
        return k.permute(0, 3, 2, 1).flatten(1)

    mistakes = {
        "rows and columns are exchanged: head h looks at column h // 3 and row h % 3.": blocks(kernel.mT),
        "the kernel is turned by 180 degrees: F.conv2d does not flip it, and offsets are key minus query.":
            blocks(kernel.flip(2, 3)),
        "rows and columns are exchanged, and the kernel is turned by 180 degrees.": blocks(kernel.mT.flip(2, 3)),
        "the columns are in the wrong order: all channels of head 0 come first, then all of head 1.":
            kernel.mT.flatten(1),
        "this is only kernel.flatten(1); columns go head by head, and within a head channel by channel.":
            kernel.flatten(1),
    }  # fmt: skip
    diagnose(answer, blocks(kernel), mistakes, "columns h * C_in to (h + 1) * C_in hold the matrix of head h's offset.")


@exercise
@torch.no_grad()
def check_zero_padding(run: Callable[[GPSA, Tensor, tuple[int, int]], Tensor]) -> None:
    """A function (layer, tokens (B, N, D), grid) -> what the sharp layer would give with zero padding, (B, N, D)."""
    layer, grid = GPSA(dim=9, num_heads=9, locality_strength=100.0).double(), (4, 5)
    layer.gating_param.fill_(40.0)
    layer.proj.weight.copy_(random_tensor(0, 9, 9))
    layer.proj.bias.copy_(random_tensor(1, 9))
    image = random_tensor(2, 2, 9, *grid)
    tokens = image.flatten(2).transpose(1, 2)  # (B, N, D)
    answer = tensor(run(layer, tokens.clone(), grid), (2, 20, 9))

    def padded(left: int, right: int) -> Tensor:
        wide = F.pad(image, (left, right, left, right))
        size = wide.shape[-2:]
        out = layer(wide.flatten(2).transpose(1, 2), tuple(size)).transpose(1, 2).reshape(2, 9, *size)
        return out[..., left : left + 4, left : left + 5].flatten(2).transpose(1, 2)

    replicate, inside = layer(tokens, grid), torch.zeros(grid, dtype=torch.float64)
    inside[1:-1, 1:-1] = 1
    inside = inside.flatten()[:, None]  # (N, 1)
    mistakes = {
        "this is still replicate padding: the border sees itself, not zeros.": replicate,
        "you set the outputs at the border to zero; the zeros belong around the input.": replicate * inside,
        "the zeros stand only to the right and below; the image has four sides.": padded(0, 1),
        "the zeros stand only to the left and above; the image has four sides.": padded(1, 0),
    }
    interior = close(answer * inside, replicate * inside)
    otherwise = "the inside is right; look at the border." if interior else (
        "even the inside is wrong; does the layer know the new grid, and do you cut the ring off again?"
    )  # fmt: skip
    diagnose(answer, padded(1, 1), mistakes, otherwise)
