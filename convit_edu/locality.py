"""How far attention looks: non-locality (Eq 8), gates, and the centres and widths that heads have learned.

Every layer is measured on its true input. The released code measures every layer on the raw patch embedding
instead (reference: chapter 08).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from .attention import GPSA
from .evaluation import evaluating
from .model import ConViT
from .positions import Grid, patch_distances


@dataclass(frozen=True)
class NonLocality:
    """What `nonlocality` returns, each (L, H) for L layers and H heads.

    Attributes:
        distance: mean distance that attention looks, in patches.
        class_mass: mean share of a patch's attention that goes to the class token (0 where there is none).
        uniform: the distance that uniform attention would have on this grid, in patches.
    """

    distance: Tensor
    class_mass: Tensor
    uniform: float

    @property
    def relative(self) -> Tensor:
        """Distance over that of uniform attention: 0 looks at itself, 1 looks everywhere alike. (L, H)"""
        return self.distance / self.uniform


def uniform_nonlocality(grid: Grid) -> float:
    """Non-locality of uniform attention on a grid, in patches: the mean distance between two patches."""
    return patch_distances(grid, "cpu", torch.float64).mean().item()


def attention_distance(weights: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Eq 8 for attention (B, H, N, N): the distance per head in patches, and the class token's mass, both (H,).

    With a class token in front (N = G_h * G_w + 1) it is dropped as a query and as a key, and every row is
    renormalised over the patches. ValueError if N is neither, or if the rows are no attention.
    """
    patches = grid[0] * grid[1]
    tokens = weights.shape[-1]
    if weights.ndim != 4 or tokens not in (patches, patches + 1):
        raise ValueError(
            f"Attention (B, H, N, N) over {grid[0]} x {grid[1]} patches, with or without a class token, is expected, "
            f"not {tuple(weights.shape)}."
        )
    if not ((weights.sum(-1) - 1).abs() < 0.02).all() or weights.min() < 0:  # wide enough for half precision
        raise ValueError("The rows of attention are shares: none below 0, and 1 in sum. Scores need a softmax first.")
    from_patches = weights[..., tokens - patches :, :]  # (B, H, G, N): the class token is no query
    to_class, to_patches = from_patches.split((tokens - patches, patches), dim=-1)
    distances = patch_distances(grid, weights.device, weights.dtype)  # (G, G)
    tiny = torch.finfo(weights.dtype).tiny  # a row wholly on the class token counts as distance 0
    distance = (to_patches * distances).sum(-1) / to_patches.sum(-1).clamp_min(tiny)  # (B, H, G)
    return distance.mean((0, 2)), to_class.sum(-1).mean((0, 2))


@torch.no_grad()
def attention_on(model: ConViT, images: Tensor) -> list[Tensor]:
    """The attention (B, H, N, N) of every layer on its true input, for normalised images (B, C, h, w).

    The model is left in the mode it was in.
    """
    trace: dict[str, Tensor] = {}
    with evaluating(model):
        model(images, trace)
        return [model.attention_weights(trace, layer) for layer in range(len(model.blocks))]


@torch.no_grad()
def nonlocality(model: ConViT, images: Tensor, batch_size: int = 64, shortcut: bool = False) -> NonLocality:
    """Non-locality (Eq 8) of every layer and head on its true input, averaged over normalised images (B, C, h, w).

    With `shortcut=True` every layer is measured as the released code does it: on the raw patch embedding, without
    position embedding, norm or class token. The model is left in the mode it was in. ValueError for no images.
    """
    if len(images) == 0:
        raise ValueError("Non-locality is an average over images; pass at least one.")
    sums = torch.zeros(())
    with evaluating(model):
        for batch in images.split(batch_size):
            if shortcut:
                raw = model.patch_embed(batch)  # (B, N, D)
                weights = [block.attn.weights(raw, model.grid) for block in model.blocks]
            else:
                weights = attention_on(model, batch)
            layers = [torch.stack(attention_distance(each, model.grid)) for each in weights]
            sums = sums + torch.stack(layers, dim=1).cpu().double() * len(batch)  # (2, L, H)
    distance, class_mass = sums / len(images)
    return NonLocality(distance, class_mass, uniform_nonlocality(model.grid))


def gpsa_layers(model: ConViT) -> list[GPSA]:
    """The GPSA layers of a model, from the input on."""
    return [block.attn for block in model.blocks if isinstance(block.attn, GPSA)]


@torch.no_grad()
def gates(model: ConViT) -> Tensor:
    """sigmoid(lambda) of every GPSA layer and head: (number of GPSA layers, H); 1 is position only."""
    layers = [layer.gate().cpu() for layer in gpsa_layers(model)]
    return torch.stack(layers) if layers else torch.empty(0, model.config["num_heads"])


@torch.no_grad()
def head_geometry(layer: GPSA) -> tuple[Tensor, Tensor]:
    """Where a layer's heads look by position: centres (H, 2) as (x, y), and widths (H,), both in patches.

    From Eq 5 read backwards: alpha = -w_d, centre = (w_x, w_y) / (2 alpha), and the width is the standard
    deviation 1 / sqrt(2 alpha). A head whose alpha is not positive has learned no Gaussian: both are NaN.
    """
    nowhere = torch.zeros(1, 3).to(layer.gating_param)
    steps = torch.eye(3).to(layer.gating_param)
    # Called, not read: what a call adds to the weights (an adapter, say) belongs to where the heads look.
    w_x, w_y, w_d = (layer.pos_proj(steps) - layer.pos_proj(nowhere)).cpu().double().unbind(0)  # each (H,)
    alpha = torch.where(w_d < 0, -w_d, torch.nan)
    return torch.stack((w_x, w_y), dim=1) / (2 * alpha[:, None]), (2 * alpha).rsqrt()


@contextmanager
def forced_gates(model: ConViT, gate: float, layers: int | None = None) -> Iterator[None]:
    """Within this context the first `layers` GPSA layers (all where None) have their gates at `gate` (Table 6).

    1 masks the content, 0 masks the position. ValueError for a gate outside [0, 1], or a number of layers that is
    not whole or more than there are.
    """
    there_are = len(gpsa_layers(model))
    layers = there_are if layers is None else layers
    if not isinstance(layers, Integral) or not 0 <= layers <= there_are:
        raise ValueError(f"There are {there_are} GPSA layers; {layers} of them cannot be forced.")
    if not 0 <= gate <= 1:
        raise ValueError(f"A gate lies in [0, 1], got {gate}.")
    with gates_at(model, dict.fromkeys(range(layers), gate)):
        yield


@contextmanager
def gates_at(model: ConViT, forced: Mapping[int, float]) -> Iterator[None]:
    """Within this context all heads of the GPSA layers named by number, from 0, have their gates at these values.

    ValueError for a gate outside [0, 1] or a layer that there is not.
    """
    found = gpsa_layers(model)
    for layer, gate in forced.items():
        if not 0 <= gate <= 1 or not isinstance(layer, Integral) or not 0 <= layer < len(found):
            raise ValueError(
                f"A gate lies in [0, 1] and there are {len(found)} GPSA layers; got {gate} for layer {layer}."
            )
    with _filled({found[layer].gating_param: torch.tensor(float(gate)).logit() for layer, gate in forced.items()}):
        yield


@contextmanager
def masked_positions(model: ConViT) -> Iterator[None]:
    """Within this context the absolute position embeddings are zero (Table 5)."""
    with _filled({model.pos_embed: torch.zeros(())}):
        yield


@contextmanager
def _filled(values: dict[Tensor, Tensor]) -> Iterator[None]:
    """Parameters filled with one number each, and put back whatever happens."""
    kept = {parameter: parameter.detach().clone() for parameter in values}
    try:
        for parameter, value in values.items():
            parameter.data.fill_(value)
        yield
    finally:
        for parameter, old in kept.items():
            parameter.data.copy_(old)
