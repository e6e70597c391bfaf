"""Where patches stand to each other: offsets, distances, and the positional attention they give (Eqs 4-5).

Patches are numbered row by row. An offset is key minus query, x = column and y = row, in patches.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Grid = tuple[int, int]
Device = torch.device | str | None


def resolve_grid(num_tokens: int, grid: Grid | None = None) -> Grid:
    """The (G_h, G_w) grid of `num_tokens` patches: `grid` after a check, or the square one where it is None.

    Raises ValueError if the patches do not fill the grid, or if no grid is given and their number is no square.
    """
    if grid is None:
        side = math.isqrt(num_tokens)
        if side * side != num_tokens:
            raise ValueError(
                f"{num_tokens} tokens do not form a square grid; pass grid=(rows, columns) to say how they lie."
            )
        return side, side
    rows, columns = grid
    if rows * columns != num_tokens:
        raise ValueError(
            f"A grid of {rows} x {columns} holds {rows * columns} patches, but the input has {num_tokens} tokens; "
            "pass the grid these tokens come from."
        )
    return rows, columns


def relative_positions(grid: Grid, device: Device = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """The vectors r of Eq 5, (dx, dy, dx² + dy²), for every query and key: (N, N, 3), in patches.

    The order of the three is that of the released code and of timm.
    """
    rows, columns = grid
    y = torch.arange(rows, device=device, dtype=dtype).repeat_interleave(columns)  # (N,)
    x = torch.arange(columns, device=device, dtype=dtype).repeat(rows)  # (N,)
    dy = y[None, :] - y[:, None]  # (N, N): key minus query
    dx = x[None, :] - x[:, None]
    return torch.stack((dx, dy, dx**2 + dy**2), dim=-1)


def patch_distances(grid: Grid, device: Device = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Euclidean distance between every two patches: (N, N), in patches (the |delta| of Eq 8)."""
    return relative_positions(grid, device, dtype)[..., 2].sqrt()


def scores(r: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """v_pos · r + b of Eq 4: vectors r (..., 3), weight (H, 3) and bias (H,) -> (..., H).

    Products are elementwise, so that autocast leaves them in their type: a score may be far larger than half
    precision can hold.
    """
    dx, dy, d2 = r[..., None].unbind(-2)  # each (..., 1)
    w_x, w_y, w_d = weight.unbind(1)  # each (H,)
    return w_x * dx + w_y * dy + w_d * d2 + bias


def positional_scores(weight: Tensor, bias: Tensor, grid: Grid) -> Tensor:
    """The scores of Eqs 4, 5 and 7 for every query and key: (H, N, N), in the type of `weight`.

    `weight` (H, 3) and `bias` (H,) are those of `pos_proj`, which gives the same scores where it is called.
    """
    return scores(relative_positions(grid, weight.device, weight.dtype), weight, bias).movedim(-1, 0)


class PositionalProjection(nn.Linear):
    """v_pos and b of every head (Eq 4) as a layer: vectors r (..., 3) -> scores (..., H), in the type of r.

    So scores are float32 or better where r is, in a half-precision model and under autocast too.
    """

    def forward(self, r: Tensor) -> Tensor:
        return scores(r, self.weight.to(r.dtype), self.bias.to(r.dtype))


def axis_attention(
    pos_proj: Callable[[Tensor], Tensor], grid: Grid, device: Device = None, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """The two one-dimensional factors of positional attention: rows (H, G_h, G_h) and columns (H, G_w, G_w).

    A score is a function of dy plus a function of dx, whatever the weights, so its softmax over the grid is
    the product of a softmax over rows and a softmax over columns (chapter 12). `pos_proj` maps vectors r
    (..., 3) to scores (..., H), linearly but for a bias, which both softmaxes take in and both cancel.
    """
    rows, columns = grid
    along_y = relative_positions((rows, 1), device, dtype)  # (G_h, G_h, 3): (0, dy, dy²)
    along_x = relative_positions((1, columns), device, dtype)  # (G_w, G_w, 3): (dx, 0, dx²)
    row_attention, column_attention = (pos_proj(r).movedim(-1, 0).softmax(-1) for r in (along_y, along_x))
    return row_attention, column_attention


def apply_axis_attention(rows: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """Positional attention applied to values (B, H, N, d) by its two factors.

    O(N (G_h + G_w)) products, and no N x N matrix.
    """
    B, H, N, d = values.shape
    G_h, G_w = rows.shape[-1], columns.shape[-1]
    mixed = rows @ values.reshape(B, H, G_h, G_w * d)  # all columns of patches at once
    mixed = columns[:, None] @ mixed.reshape(B, H, G_h, G_w, d)  # all rows of patches
    return mixed.reshape(B, H, N, d)


def kernel_centres(num_heads: int) -> Tensor:
    """The initial centres of attention: (H, 2) as (x, y), in patches; H = k² heads on a k x k grid about 0.

    Head h looks at column h // k and row h % k, the order of the released code. For odd k the centres are
    whole patches; for even k they are half-integers, between patches. Raises ValueError if H is no square.
    """
    k = math.isqrt(num_heads)
    if k * k != num_heads:
        raise ValueError(
            f"{num_heads} heads cannot form a square kernel; use a square number of heads (1, 4, 9, 16, ...) "
            "or positional_init=False."
        )
    head = torch.arange(num_heads)
    return torch.stack((head // k, head % k), dim=-1) - (k - 1) / 2
