"""Self-attention (Eqs 1-3) and gated positional self-attention (Eqs 6-7).

Each layer has two methods that agree: `weights(x)` is the attention to look at, written as in the paper;
`forward(x)` runs without storing an N x N matrix, but for the cases that its docstring and `attend` name.
Shapes: B batch, N tokens, H heads, d width of a head, D = H * d. Chapters 04 and 06 build this step by step.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .positions import (
    Grid,
    apply_axis_attention,
    axis_attention,
    kernel_centres,
    positional_scores,
    resolve_grid,
)

MIXINGS = ("gated", "single_softmax")


def content_scores(q: Tensor, k: Tensor) -> Tensor:
    """Q K^T / sqrt(d) of Eq 1, (B, H, N, N), for queries and keys (B, H, N, d); float32 or better."""
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).to(at_least_float32(q))


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V for (B, H, N, d) tensors, without storing the N x N softmax.

    The exception is bfloat16 on a CPU: there the backward pass of the fused kernel takes up to ten times as
    long as an explicit softmax, so up to 1,024 tokens the softmax is explicit. float16 on a CPU, where most
    processors have no arithmetic of their own for it, is faster by way of float32 at any size.
    """
    if q.device.type == "cpu" and q.dtype == torch.float16:
        exact = (x.float() for x in (q, k, v))
        return F.scaled_dot_product_attention(*exact, dropout_p=dropout).to(q.dtype)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[-2] <= 1024:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, H, N, N)
        return F.dropout(scores.softmax(-1, dtype=q.dtype), dropout) @ v
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


def at_least_float32(x: Tensor) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.promote_types(x.dtype, torch.float32)


class _Attention(nn.Module):
    """What both layers share: heads, dropout, the output projection, and the check of the input."""

    def __init__(self, dim: int, num_heads: int, attn_drop: float, proj_drop: float):
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(
                f"dim={dim} cannot be shared equally by num_heads={num_heads}; choose a dim that is a multiple of it."
            )
        self.dim, self.num_heads, self.head_dim = dim, num_heads, dim // num_heads
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)  # W_out and b_out of Eq 2
        self.proj_drop = nn.Dropout(proj_drop)

    def _check(self, x: Tensor) -> None:
        weight = self.proj.weight
        if x.ndim != 3 or x.shape[-1] != self.dim:
            raise ValueError(f"Attention expects (batch, tokens, {self.dim}), got {tuple(x.shape)}.")
        if x.device != weight.device:
            raise ValueError(f"The input is on {x.device}, the layer on {weight.device}; move one to the other.")
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(f"The input is {x.dtype}, the layer {weight.dtype}; convert one, or use torch.autocast.")

    def _split_heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, N, parts * H * d) -> `parts` tensors (B, H, N, d)."""
        B, N, width = x.shape
        d = width // (parts * self.num_heads)
        return x.reshape(B, N, parts, self.num_heads, d).permute(2, 0, 3, 1, 4).unbind(0)

    def _project(self, heads: Tensor) -> Tensor:
        """Concatenate the heads (B, H, N, d) and apply W_out (Eq 2): (B, N, D)."""
        B, H, N, d = heads.shape
        return self.proj_drop(self.proj(heads.transpose(1, 2).reshape(B, N, H * d)))

    @property
    def _dropping(self) -> bool:
        return self.training and self.attn_drop.p > 0


class SelfAttention(_Attention):
    """Multi-head self-attention (Eqs 1-3).

    Args:
        dim: D, a multiple of `num_heads` (ValueError otherwise).
        num_heads: H.
        qkv_bias: whether queries, keys and values have a bias (DeiT: yes, ConViT: no).
        attn_drop, proj_drop: dropout on the attention weights and on the output.
    """

    def __init__(
        self, dim: int, num_heads: int, qkv_bias: bool = False, attn_drop: float = 0.0, proj_drop: float = 0.0
    ):
        super().__init__(dim, num_heads, attn_drop, proj_drop)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)

    def weights(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """The attention A of Eq 1: (B, H, N, N), rows are queries and sum to 1. `grid` plays no part."""
        self._check(x)
        q, k, _ = self._split_heads(self.qkv(x), 3)  # each (B, H, N, d)
        return content_scores(q, k).softmax(-1)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D), by `attend`. `grid` plays no part."""
        self._check(x)
        q, k, v = self._split_heads(self.qkv(x), 3)  # each (B, H, N, d)
        return self._project(attend(q, k, v, dropout=self.attn_drop.p if self.training else 0.0))


class GPSA(_Attention):
    """Gated positional self-attention (Eqs 6-7), started as a convolution (Eq 5).

    Each head mixes two attentions by a gate g = sigmoid(lambda): A = (1 - g) * softmax(content scores) +
    g * softmax(positional scores). The rows of A sum to 1, so the normalisation of Eq 6 changes nothing
    and is left out. Only the content scores are divided by sqrt(d), as in the released code.

    Args:
        dim: D, a multiple of `num_heads` (ValueError otherwise).
        num_heads: H; a square number if `positional_init` is on (ValueError otherwise).
        qkv_bias: whether queries, keys and values have a bias.
        attn_drop, proj_drop: dropout on the attention weights and on the output. With attn_drop > 0 training
            takes the readable path, which stores the (B, H, N, N) attention.
        locality_strength: alpha of Eq 5, finite and not negative (ValueError otherwise).
        positional_init: start head h with its attention centred on patch offset Delta_h (Eq 5).
        identity_values: start with W_val = identity (Eq 5).
        mixing: "gated" (Eq 7), or "single_softmax": one softmax over the sum of both scores (Eq 4), which
            always stores the attention and whose `gating_param` is not trained.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        locality_strength: float = 1.0,
        positional_init: bool = True,
        identity_values: bool = True,
        mixing: str = "gated",
    ):
        super().__init__(dim, num_heads, attn_drop, proj_drop)
        if not (math.isfinite(locality_strength) and locality_strength >= 0):
            raise ValueError(f"locality_strength must be finite and not negative, got {locality_strength}.")
        if mixing not in MIXINGS:
            raise ValueError(f"Unknown mixing {mixing!r}; known: {', '.join(MIXINGS)}.")
        self.locality_strength, self.mixing = locality_strength, mixing
        self.positional_init, self.identity_values = positional_init, identity_values
        self.qk = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.pos_proj = nn.Linear(3, num_heads)  # row h of the weight is v_pos of head h (Eq 4)
        self.gating_param = nn.Parameter(torch.ones(num_heads), requires_grad=mixing == "gated")  # lambda
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

    def _positional_parameters(self) -> tuple[Tensor, Tensor]:
        dtype = at_least_float32(self.pos_proj.weight)
        return self.pos_proj.weight.to(dtype), self.pos_proj.bias.to(dtype)

    def weights(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """The attention A of Eq 7 as the paper writes it: (B, H, N, N), rows are queries and sum to 1.

        `grid` = (G_h, G_w) says how the N tokens are laid out; square where None. ValueError if they do not fit.
        """
        self._check(x)
        grid = resolve_grid(x.shape[1], grid)
        q, k = self._split_heads(self.qk(x), 2)  # each (B, H, N, d)
        content = content_scores(q, k)  # (B, H, N, N)
        position = positional_scores(*self._positional_parameters(), grid)  # (H, N, N)
        if self.mixing == "single_softmax":
            return (content + position).softmax(-1)
        gate = self.gate()[:, None, None]  # (H, 1, 1)
        return (1 - gate) * content.softmax(-1) + gate * position.softmax(-1)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D); `grid` as in `weights`.

        Content goes through `attend`, position through its two one-dimensional factors (chapter 06).
        With mixing="single_softmax", or in training with attn_drop > 0, the attention is stored instead.
        """
        self._check(x)
        grid = resolve_grid(x.shape[1], grid)
        (v,) = self._split_heads(self.v(x), 1)  # (B, H, N, d)
        if self.mixing == "single_softmax" or self._dropping:
            return self._project(self.attn_drop(self.weights(x, grid).to(v.dtype)) @ v)
        q, k = self._split_heads(self.qk(x), 2)  # each (B, H, N, d)
        rows, columns = axis_attention(*self._positional_parameters(), grid)  # (H, G_h, G_h), (H, G_w, G_w)
        gate = self.gate()[:, None, None]  # (H, 1, 1)
        position = apply_axis_attention((gate * rows).to(v.dtype), columns.to(v.dtype), v)  # (B, H, N, d)
        return self._project(torch.addcmul(position, (1 - gate).to(v.dtype), attend(q, k, v)))
