"""Locality by the initial weights alone: two later ideas, for a plain DeiT. Chapter 10 puts them beside GPSA.

Both want position embeddings that attention can read, so both begin with sines and cosines; `sinusoidal` is that
change alone. Written from the papers' equations; where they differ from the authors' code, a docstring says so.
"""

from functools import partial

import torch
from torch import Tensor, nn

from ..attention import SelfAttention
from ..model import ConViT
from ..positions import Grid, kernel_centres

TEMPERATURE = 10_000.0  # the lowest frequency is one over it


def sine_embedding(grid: Grid, dim: int) -> Tensor:
    """Sines and cosines of row and column: (N, D), float64. Channels beyond a multiple of four stay zero."""
    number = dim // 4
    omega = TEMPERATURE ** -(torch.arange(number, dtype=torch.float64) / max(1, number - 1))  # (D / 4,)
    y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    angles = [where.flatten()[:, None] * omega for where in (x, y)]  # each (N, D / 4)
    parts = [f(angle) for angle in angles for f in (torch.sin, torch.cos)]
    return torch.cat([*parts, torch.zeros(len(parts[0]), dim - 4 * number)], dim=1)


def _plain(model: ConViT) -> list[SelfAttention]:
    layers = [block.attn for block in model.blocks]
    if not all(isinstance(layer, SelfAttention) for layer in layers):
        raise ValueError("These starts are for a DeiT; build the model with local_up_to_layer=0.")
    return layers


@torch.no_grad()
def sinusoidal(model: ConViT) -> None:
    """Start the position embeddings, which stay trained, as sines and cosines."""
    _plain(model)
    model.pos_embed.copy_(sine_embedding(model.grid, model.config["embed_dim"]))


def nearest_product(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The two factors, (..., D, rank) and (..., rank, D), whose product is nearest to a matrix (..., D, D).

    Its strongest singular values, the root of each on either side.
    """
    U, S, Vh = torch.linalg.svd(matrix)
    root = S[..., :rank].sqrt()  # (..., rank)
    return U[..., :rank] * root[..., None, :], root[..., None] * Vh[..., :rank, :]


@torch.no_grad()
def mimetic(model: ConViT, queries: float | None = 0.7, values: float | None = 0.4) -> None:
    """Mimetic initialisation (Trockman and Kolter 2023), from torch's random state.

    In every head W_qry W_key^T is near `queries` (I + Z), and in every layer W_val W_out is near `values` (Z - I), with
    Z normal of variance 1/D; each is made by singular values, cut at the width of a head for the first. So a token
    attends to tokens like itself, its own place among them, and attention takes away a part of what it finds. What is
    None keeps its usual start.
    """
    sinusoidal(model)
    for layer in _plain(model):
        for q, k in zip(*_heads(layer), strict=True) if queries else ():
            left, right = nearest_product(_near(queries, 1, layer.dim), layer.head_dim)  # W_qry^T and W_key of the head
            q.copy_(left.T)
            k.copy_(right)
        if values:
            _mimetic_values(layer, values)


def _near(scale: float, sign: int, dim: int) -> Tensor:
    """scale (Z + sign I), with Z normal of variance 1/D: (D, D), float64."""
    return scale * (torch.randn(dim, dim, dtype=torch.float64) / dim**0.5 + sign * torch.eye(dim))


def _mimetic_values(layer: SelfAttention, scale: float) -> None:
    left, right = nearest_product(_near(scale, -1, layer.dim), layer.dim)
    layer.qkv.weight[2 * layer.dim :].copy_(left.T)
    layer.proj.weight.copy_(right.T)


@torch.no_grad()
def structured(model: ConViT, strength: float = 60.0, values: float | None = None) -> None:
    """Structured initialisation (Zheng et al. 2025): every head starts by looking at one offset, drawn at random.

    Queries and keys are made so that, were the tokens their normalised position embeddings P (N, D), the scores would
    be nearest to `strength` at the patch with the head's offset and 0 elsewhere: W_qry W_key^T from the pseudo-inverse
    of P, cut at the width of a head. Offsets are the nine of a 3 x 3 filter; beyond the border the nearest patch
    is taken.

    That is half of the authors' method. Their code (osiriszjq/structured_initialization at 7cd02f1, mode `impulse`)
    also sets values and projection by the mimetic rule; so does this with `values=0.4`, and by default not.

    The rest of what differs from their code. The target: theirs is 1000 at the offset and noise elsewhere, with an
    empty row where the offset lies beyond the border; offsets come in a fixed order, the centre first. The inverse:
    theirs keeps as many directions of P as a head is wide; here those below a tenth of the strongest are left out,
    which the inverse would blow up, and then what a token shows would outshout where it lies. The size: theirs
    normalises each factor and takes it times 7; here `strength` makes the attention about as local as that of a fresh
    ConViT on a 7 x 7 grid. The position embeddings: theirs stay random and are taken times 18; here they are sines.
    """
    sinusoidal(model)
    P = nn.functional.layer_norm(sine_embedding(model.grid, model.config["embed_dim"]), (model.config["embed_dim"],))
    back = torch.linalg.pinv(P, rtol=0.1)  # (D, N)
    offsets = kernel_centres(9).long()  # (9, 2) as (x, y)
    for layer in _plain(model):
        drawn = offsets[torch.randint(9, (layer.num_heads,))]  # (H, 2)
        for q, k, offset in zip(*_heads(layer), drawn, strict=True):
            target = strength * layer.head_dim**0.5 * impulse(model.grid, *offset.tolist())  # (N, N), before 1/sqrt(d)
            target = target - target.mean(1, keepdim=True)  # a constant a row changes no softmax
            left, right = nearest_product(back @ target @ back.T, layer.head_dim)
            q.copy_(left.T)
            k.copy_(right)
        if values:
            _mimetic_values(layer, values)


def impulse(grid: Grid, dx: int, dy: int) -> Tensor:
    """1 where the key lies at this offset from the query, beyond the border at the nearest patch: (N, N), float64."""
    rows, columns = grid
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    key = (y + dy).clamp(0, rows - 1) * columns + (x + dx).clamp(0, columns - 1)  # (G_h, G_w)
    return nn.functional.one_hot(key.flatten(), rows * columns).cpu().double()


def _heads(layer: SelfAttention) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Views of the query and key weights, (d, D) for each head."""
    return tuple(part.split(layer.head_dim) for part in layer.qkv.weight.chunk(3)[:2])


# Queries and keys (usual, mimetic, structured) by values and projection (usual, mimetic): all six.
STARTS = {
    "sinusoidal": sinusoidal, "mimetic": mimetic, "structured": structured,
    "mimetic, queries and keys alone": partial(mimetic, values=None),
    "mimetic, values alone": partial(mimetic, queries=None),
    "structured, mimetic values": partial(structured, values=0.4),
}  # fmt: skip
