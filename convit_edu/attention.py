"""Self-attention (Eqs 1-3) and gated positional self-attention (Eqs 6-7).

Each layer has two methods that agree: `weights(x)` is the attention to look at, written as in the paper;
`forward(x)` runs, and stores no N x N matrix but for the case that `attend` names.
Shapes: B batch, N tokens, H heads, d width of a head, D = H * d. Chapters 04 and 12 build this step by step.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .positions import (
    Grid,
    PositionalProjection,
    apply_axis_attention,
    axis_attention,
    kernel_centres,
    relative_positions,
    resolve_grid,
)


def at_least_float32(x: Tensor) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.promote_types(x.dtype, torch.float32)


def content_scores(q: Tensor, k: Tensor) -> Tensor:
    """Q K^T / sqrt(d) of Eq 1, (B, H, N, N), for queries and keys (B, H, N, d); returned as float32 or better."""
    return ((q * q.shape[-1] ** -0.5) @ k.mT).to(at_least_float32(q))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V for (B, H, N, d) tensors, without storing the N x N softmax.

    The exception is bfloat16 on a CPU: there the backward pass of the fused kernel may take up to ten times as
    long as an explicit softmax, so up to 1,024 tokens the softmax is explicit. (It depends on the CPU: on one with
    AVX2 and no more the fused kernel took a third of the time.)
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[-2] <= 1024:
        scores = (q * q.shape[-1] ** -0.5) @ k.mT  # (B, H, N, N)
        return scores.softmax(-1, dtype=q.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v)


class _Attention(nn.Module):
    """What both layers share: H heads of width d, and the output projection."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(
                f"dim={dim} cannot be shared equally by num_heads={num_heads}; choose a dim that is a multiple of it."
            )
        self.dim, self.num_heads, self.head_dim = dim, num_heads, dim // num_heads
        self.proj = nn.Linear(dim, dim)  # W_out and b_out of Eq 2

    def _split_heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, N, parts * H * d) -> `parts` tensors (B, H, N, d)."""
        return x.unflatten(-1, (parts, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class SelfAttention(_Attention):
    """Multi-head self-attention (Eqs 1-3).

    Args:
        dim: D, a multiple of `num_heads` (ValueError otherwise).
        num_heads: H.
        qkv_bias: whether queries, keys and values have a bias (DeiT: yes, ConViT: no).
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = False):
        super().__init__(dim, num_heads)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)

    def weights(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """The attention A of Eq 1: (B, H, N, N), rows are queries and sum to 1. `grid` plays no part."""
        q, k, _ = self._split_heads(self.qkv(x), 3)  # each (B, H, N, d)
        return content_scores(q, k).softmax(-1)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D), by `attend`. `grid` plays no part."""
        q, k, v = self._split_heads(self.qkv(x), 3)  # each (B, H, N, d)
        heads = attend(q, k, v)  # (B, H, N, d)
        return self.proj(heads.transpose(1, 2).flatten(2))  # heads side by side: (B, N, D)


class GPSA(_Attention):
    """Gated positional self-attention (Eqs 6-7), started as a convolution (Eq 5).

    Each head mixes two attentions by a gate g = sigmoid(lambda): A = (1 - g) * softmax(content scores) +
    g * softmax(positional scores). The rows of A sum to 1, so the normalisation of Eq 6 changes nothing
    and is left out. Only the content scores are divided by sqrt(d), as in the released code.

    Args:
        dim: D, a multiple of `num_heads` (ValueError otherwise).
        num_heads: H; a square number if `positional_init` is on (ValueError otherwise).
        qkv_bias: whether queries, keys and values have a bias.
        locality_strength: alpha of Eq 5, finite and not negative (ValueError otherwise).
        positional_init: start head h with its attention centred on patch offset Delta_h (Eq 5).
        identity_values: start with W_val = identity (Eq 5).
    """

    def __init__(
        self, dim: int, num_heads: int, qkv_bias: bool = False, locality_strength: float = 1.0,
        positional_init: bool = True, identity_values: bool = True,
    ):  # fmt: skip
        super().__init__(dim, num_heads)
        if not (math.isfinite(locality_strength) and locality_strength >= 0):
            raise ValueError(f"locality_strength must be finite and not negative, got {locality_strength}.")
        self.locality_strength = locality_strength
        self.positional_init, self.identity_values = positional_init, identity_values
        self.qk = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.pos_proj = PositionalProjection(3, num_heads)  # row h of its weight is v_pos of head h (Eq 4)
        self.gating_param = nn.Parameter(torch.ones(num_heads))  # lambda
        self.local_init()

    @torch.no_grad()
    def local_init(self) -> None:
        """Start as a convolution (Eq 5): head h attends at offset Delta_h with strength alpha, values pass through.

        A model that initialises its layers itself must call this again afterwards.
        """
        if self.positional_init:
            centres = kernel_centres(self.num_heads).to(self.pos_proj.weight)  # (H, 2)
            ones = torch.ones_like(centres[:, :1])
            # -alpha |delta - Delta|² = alpha (2 Delta · delta - |delta|²) + constant
            self.pos_proj.weight.copy_(self.locality_strength * torch.cat((2 * centres, -ones), dim=1))  # (H, 3)
        if self.identity_values:
            nn.init.eye_(self.v.weight)

    def gate(self) -> Tensor:
        """sigmoid(lambda) of Eq 7: (H,); 1 is position only, 0 is content only."""
        return self.gating_param.to(at_least_float32(self.gating_param)).sigmoid()

    def weights(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """The attention A of Eq 7 as the paper writes it: (B, H, N, N), rows are queries and sum to 1.

        `grid` = (G_h, G_w) says how the N tokens are laid out; square where None. ValueError if they do not fit.
        """
        grid = resolve_grid(x.shape[1], grid)
        q, k = self._split_heads(self.qk(x), 2)  # each (B, H, N, d)
        content = content_scores(q, k)  # (B, H, N, N)
        position = self.pos_proj(relative_positions(grid, x.device, at_least_float32(x))).movedim(-1, 0)  # (H, N, N)
        gate = self.gate()[:, None, None]  # (H, 1, 1)
        return (1 - gate) * content.softmax(-1) + gate * position.softmax(-1)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D); `grid` as in `weights`.

        The mixture is linear, so it can wait until each attention has met the values: content by `attend`,
        position by its two one-dimensional factors (chapter 12).
        """
        grid = resolve_grid(x.shape[1], grid)
        q, k = self._split_heads(self.qk(x), 2)  # each (B, H, N, d)
        (v,) = self._split_heads(self.v(x), 1)  # (B, H, N, d)
        factors = axis_attention(self.pos_proj, grid, x.device, at_least_float32(x))
        rows, columns = (factor.to(v.dtype) for factor in factors)  # (H, G_h, G_h), (H, G_w, G_w)
        content = attend(q, k, v)  # (B, H, N, d)
        position = apply_axis_attention(rows, columns, v)  # (B, H, N, d)
        gate = self.gate()[:, None, None].to(v.dtype)  # (H, 1, 1)
        heads = (1 - gate) * content + gate * position  # (B, H, N, d)
        return self.proj(heads.transpose(1, 2).flatten(2))  # heads side by side: (B, N, D)
