"""From a CNN to a ConViT: trained 3 x 3 convolutions written as GPSA layers that compute the same function.

`PatchCNN` is a residual network on the grid of patches. `recast` makes a `WideConViT` of it: nine heads a layer,
each with the values of a whole token, because a tap of a 3 x 3 convolution is a D x D matrix of any rank and a head
of width d can only make one of rank d. Chapter 11 uses this module.
"""

import math

import torch
from torch import Tensor, nn

from ..attention import GPSA
from ..locality import gpsa_layers
from ..model import Block, ConViT, PatchEmbed
from ..positions import Grid, kernel_centres
from .initial_weights import nearest_product

TAPS = 9  # of a 3 x 3 convolution, and heads of the layer that it becomes
PADDINGS = ("replicate", "zeros")
POSITION_ONLY = 1000.0  # lambda at which a gate is exactly 1 in floating point


class Convolution(nn.Module):
    """A 3 x 3 convolution of tokens (B, N, D) that lie on a grid: in the place of an attention layer.

    Args:
        dim: D.
        padding: what lies beyond the border: "replicate", the nearest patch, or "zeros" (ValueError otherwise).
    """

    def __init__(self, dim: int, padding: str = "replicate"):
        super().__init__()
        if padding not in PADDINGS:
            raise ValueError(f"Unknown padding {padding!r}; known: {', '.join(PADDINGS)}.")
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, padding_mode=padding)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        image = x.transpose(1, 2).unflatten(2, grid)  # (B, D, G_h, G_w)
        return self.conv(image).flatten(2).transpose(1, 2)


class PatchCNN(nn.Module):
    """A residual network on patches: a ConViT whose attention layers are 3 x 3 convolutions.

    Patch embedding, `depth` blocks (norm, convolution, norm, MLP on each patch), the mean over patches, a linear head.
    There is no position embedding: a convolution knows no places.

    Args:
        img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio: as in `ConViT`.
        padding: see `Convolution`.
        init_gain: how large the matrices of the blocks start, as in `ConViT`; a convolution has 9 D inputs.
    """

    def __init__(
        self, img_size: int = 28, patch_size: int = 4, in_chans: int = 1, num_classes: int = 10, embed_dim: int = 36,
        depth: int = 4, mlp_ratio: float = 4.0, padding: str = "replicate", init_gain: float | None = None,
    ):  # fmt: skip
        self_config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.config = self_config  # all that is needed to build this model again
        self.patch_embed = PatchEmbed((img_size, img_size), patch_size, in_chans, embed_dim)
        self.blocks = nn.ModuleList(
            Block(Convolution(embed_dim, padding), embed_dim, mlp_ratio) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Linear(embed_dim, num_classes)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                inputs = module.weight[0].numel()
                nn.init.trunc_normal_(module.weight, std=0.02 if init_gain is None else init_gain / inputs**0.5)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    @property
    def grid(self) -> Grid:
        """The patch grid (G_h, G_w)."""
        return self.patch_embed.grid

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, h, w) -> logits (B, num_classes)."""
        x = self.patch_embed(images)  # (B, N, D)
        for block in self.blocks:
            x = block(x, self.grid)
        return self.head(self.norm(x).mean(1))


class WideGPSA(GPSA):
    """A GPSA layer whose heads have values of a width of their own; queries and keys keep D / H.

    Args:
        dim, num_heads, arguments: as in `GPSA`.
        value_dim: d of the values, 1 to D (ValueError otherwise). W_val is (H d, D) and W_out (D, H d). Where
            `identity_values` is on, every head starts with the first d channels of its token.
    """

    def __init__(self, dim: int, num_heads: int, value_dim: int, **arguments):
        super().__init__(dim, num_heads, **arguments)
        if not 1 <= value_dim <= dim:
            raise ValueError(f"value_dim must lie between 1 and the width {dim} of a token, got {value_dim}.")
        self.value_dim = value_dim
        self.v = nn.Linear(dim, num_heads * value_dim, bias=self.qk.bias is not None)
        self.proj = nn.Linear(num_heads * value_dim, dim)
        self.local_init()

    @torch.no_grad()
    def local_init(self) -> None:
        """As in `GPSA`, with the identity for every head."""
        super().local_init()
        if self.identity_values and hasattr(self, "value_dim"):
            eye = torch.eye(self.value_dim, self.dim).to(self.v.weight)
            self.v.weight.copy_(eye.repeat(self.num_heads, 1))  # (H d, D)


class WideConViT(ConViT):
    """A ConViT of GPSA layers alone, with heads whose values are as wide as `value_dim` says.

    Args:
        value_dim: see `WideGPSA`; by default D, a whole token, which is what `recast` needs to be exact.
        arguments: as in `ConViT`; `local_up_to_layer` is the depth and `num_heads` nine by default.
    """

    def __init__(self, value_dim: int | None = None, **arguments):
        arguments = dict(depth=4, num_heads=TAPS) | arguments
        arguments.setdefault("local_up_to_layer", arguments["depth"])
        super().__init__(**arguments)
        config = super().config
        if config["local_up_to_layer"] != config["depth"]:
            raise ValueError("A WideConViT has GPSA layers alone; leave local_up_to_layer out.")
        self.value_dim = config["embed_dim"] if value_dim is None else value_dim
        names = ("qkv_bias", "locality_strength", "positional_init", "identity_values")
        shared = {name: config[name] for name in names}
        for block in self.blocks:
            block.attn = WideGPSA(config["embed_dim"], config["num_heads"], self.value_dim, **shared)
        self._init_weights()

    @property
    def config(self) -> dict:
        """As in `ConViT`, with `value_dim`."""
        return super().config | {"value_dim": self.value_dim}


def taps_of(conv: nn.Conv2d) -> Tensor:
    """The nine matrices of a 3 x 3 convolution, in the order of the heads' centres: (9, D, D), rows are outputs."""
    x, y = kernel_centres(TAPS).long().unbind(1)  # each (9,): -1, 0 or 1
    return conv.weight[:, :, y + 1, x + 1].permute(2, 0, 1)


def factors(taps: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Each tap (H, D, D) as a product W_out W_val of rank d: (H, D, d) and (H, d, D).

    With d = D it is exact, and W_val is the identity. Below, it is the nearest product there is (singular values).
    ValueError for a rank outside 1 to D.
    """
    D = taps.shape[-1]
    if not 1 <= rank <= D:
        raise ValueError(f"The rank of a tap lies between 1 and {D}, got {rank}.")
    if rank == D:
        return taps, torch.eye(D).to(taps).expand_as(taps)
    return nearest_product(taps, rank)


@torch.no_grad()
def recast(
    cnn: PatchCNN, strength: float = 50.0, gate: float = 1.0, value_dim: int | None = None, seed: int | None = None
) -> WideConViT:
    """A copy of a `PatchCNN` with its convolutions as GPSA layers.

    Head h looks at the patch of tap h, and W_out W_val is that tap. With a large strength, gates at 1 and whole
    tokens as values the function is the same: everywhere if the CNN pads by "replicate", away from the border if by
    "zeros", since attention beyond the border falls on the nearest patch. Queries and keys start at random; position
    embeddings, which the CNN does not have, at zero.

    Args:
        cnn: the network; it is left as it is.
        strength: alpha of Eq 5. A neighbour of the patch looked at gets about exp(-alpha) of the attention.
        gate: where the gates start, in (0, 1]; 1 is position only and exact (ValueError outside).
        value_dim: width of a head's values; D where None.
        seed: of queries and keys; torch's random state is left as it was.
    """
    if not 0 < gate <= 1:
        raise ValueError(f"A gate to start from lies above 0 and up to 1, got {gate}.")
    given = {name: value for name, value in cnn.config.items() if name != "padding"}
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        model = WideConViT(value_dim=value_dim, locality_strength=strength, **given).to(cnn.head.weight)
    for name in ("patch_embed", "norm", "head"):
        getattr(model, name).load_state_dict(getattr(cnn, name).state_dict())
    model.pos_embed.zero_()
    for new, old in zip(model.blocks, cnn.blocks, strict=True):
        for name in ("norm1", "norm2", "mlp"):
            getattr(new, name).load_state_dict(getattr(old, name).state_dict())
        W_out, W_val = factors(taps_of(old.attn.conv), model.config["value_dim"])  # (9, D, d), (9, d, D)
        new.attn.v.weight.copy_(W_val.flatten(0, 1))
        new.attn.proj.weight.copy_(W_out.permute(1, 0, 2).flatten(1))  # (D, 9 d)
        new.attn.proj.bias.copy_(old.attn.conv.bias)
    set_gates(model, gate)
    return model.train(cnn.training)


@torch.no_grad()
def set_gates(model: ConViT, gate: float) -> None:
    """Put every gate of a model to a value in (0, 1]; from 1, exactly, no gradient ever moves it."""
    for layer in gpsa_layers(model):
        layer.gating_param.fill_(POSITION_ONLY if gate == 1 else math.log(gate / (1 - gate)))
