"""The Vision Transformer whose first layers may be GPSA: ConViT and DeiT as one class (Section 3, Fig 4).

`local_up_to_layer` GPSA layers come first, plain self-attention layers after; 0 of them is DeiT. The names in
a state dict are timm's, so an official ConViT checkpoint loads with strict=True. Chapter 05 assembles this.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import GPSA, SelfAttention, at_least_float32
from .data import whole
from .positions import Grid

POOLS = ("token", "mean")


@dataclass(frozen=True, kw_only=True)
class ConViTSettings:
    """What a ConViT, a DeiT or what lies between is made of. ValueError for what cannot be.

    Attributes:
        img_size: pixels, an int or (height, width); a multiple of `patch_size`.
        patch_size, in_chans, num_classes: pixels, channels, classes; without classes (0) the model gives the
            features (B, D) that the head would have read.
        embed_dim, depth, num_heads, mlp_ratio: D, number of blocks L, H, hidden width of the MLP over D.
        qkv_bias: biases of queries, keys and values (released ConViT: no; DeiT: yes).
        drop_path_rate: stochastic depth of the last block; grows linearly from 0 at the first.
        local_up_to_layer: number of GPSA blocks, counted from the input; 0 is DeiT.
        locality_strength, positional_init, identity_values: see `GPSA`.
        class_token_at: the block before which the class token joins; by default after the last GPSA block,
            which has no place for a token that is no patch.
        pool: "token" reads the class token, "mean" the mean of the final patch tokens. With "mean" the class
            token takes no part; it stays in the state dict and asks for no gradient. With
            `local_up_to_layer` equal to `depth` no layer is left that a class token could attend in, and
            the model pools by the mean whatever `pool` says.
        init_gain: None starts every matrix with deviation 0.02, as the paper, whose widths are 192 to 1024. A number g
            above 0 starts those of the blocks with g / sqrt(fan-in), so that a block adds as much to its input at any
            width (chapter 06). Head, `pos_proj`, tokens and patch embedding start as ever, identity values too.
    """

    img_size: int | Sequence[int] = 224
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 192
    depth: int = 12
    num_heads: int = 4
    mlp_ratio: float = 4.0
    qkv_bias: bool = False
    drop_path_rate: float = 0.0
    local_up_to_layer: int = 10
    locality_strength: float = 1.0
    class_token_at: int | None = None
    pool: str = "token"
    positional_init: bool = True
    identity_values: bool = True
    init_gain: float | None = None

    def __post_init__(self) -> None:
        for name in ("patch_size", "in_chans", "embed_dim", "depth", "num_heads"):
            whole(name, getattr(self, name), least=1)
        whole("num_classes", self.num_classes, least=0)
        whole("local_up_to_layer", self.local_up_to_layer, least=0)
        if self.local_up_to_layer > self.depth:
            raise ValueError(
                f"local_up_to_layer must lie between 0 and the depth {self.depth}, got {self.local_up_to_layer}."
            )
        if not 1 <= self.mlp_ratio * self.embed_dim < math.inf:
            raise ValueError(f"mlp_ratio must be finite and leave the MLP a hidden unit, got {self.mlp_ratio}.")
        if self.init_gain is not None and not 0 < self.init_gain < math.inf:
            raise ValueError(
                f"init_gain must be finite and above 0, or None for the paper's start, got {self.init_gain}."
            )
        if self.pool not in POOLS:
            raise ValueError(f"Unknown pool {self.pool!r}; known: {', '.join(POOLS)}.")
        if self.class_token_at is None:
            return
        if self.pools_by == "mean":
            raise ValueError("class_token_at has no meaning here: a model that pools by the mean has no class token.")
        whole("class_token_at", self.class_token_at, least=0)
        if not self.local_up_to_layer <= self.class_token_at < self.depth:
            raise ValueError(
                f"class_token_at={self.class_token_at} must be a block after the last GPSA block and within the "
                f"depth: {self.local_up_to_layer} to {self.depth - 1}."
            )

    @property
    def pools_by(self) -> str:
        """`pool`, but "mean" where GPSA blocks reach to the top."""
        return "mean" if self.local_up_to_layer == self.depth else self.pool


class PatchEmbed(nn.Module):
    """Cut images (B, C, h, w) into patches and project each linearly: (B, N, D), patches row by row.

    ValueError for an image size that the patch size does not divide, or an input of another size.
    """

    def __init__(self, img_size: int | Sequence[int], patch_size: int, in_chans: int, embed_dim: int):
        super().__init__()
        # One filter application per patch: the same as a linear layer on its pixels.
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.patch_size, self.in_chans = patch_size, in_chans
        self.set_img_size(img_size)

    def set_img_size(self, img_size: int | Sequence[int]) -> None:
        """Take images of this size from now on: pixels, an int or (height, width)."""
        size = tuple(img_size) if isinstance(img_size, Sequence) else (img_size, img_size)
        p = self.patch_size
        if len(size) != 2:
            raise ValueError(f"img_size is a whole number or (height, width), got {img_size!r}.")
        for side in size:
            whole("img_size", side, least=0)
        if any(side < p or side % p for side in size):
            raise ValueError(
                f"An image of {size[0]} x {size[1]} pixels cannot be cut into patches of {p} x {p}; "
                "choose an img_size that is a multiple of the patch_size."
            )
        self.input_shape = (self.in_chans, *size)
        self.grid: Grid = (size[0] // p, size[1] // p)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or tuple(images.shape[1:]) != self.input_shape:
            raise ValueError(
                f"The model expects images of shape (batch, {', '.join(map(str, self.input_shape))}), "
                f"got {tuple(images.shape)}; build it for other images, or use model.resized(img_size)."
            )
        return self.proj(images).flatten(2).transpose(1, 2)  # (B, D, G_h, G_w) -> (B, N, D)


class Mlp(nn.Module):
    """The feed-forward network of a block: D -> ratio * D -> D with a GELU between."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # (B, N, D)


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth: leave out a residual branch (B, N, D) for a random share `rate` of the images."""
    if rate == 0.0 or not training:
        return x
    keep = torch.rand(x.shape[0], 1, 1, device=x.device) >= rate  # (B, 1, 1)
    return x * (keep / (1 - rate)).to(x.dtype)  # the expectation stays the same


class Block(nn.Module):
    """A pre-norm transformer block around either attention layer."""

    def __init__(self, attn: nn.Module, dim: int, mlp_ratio: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio + 1e-6))  # a ratio that was a quotient may fall short by its last bit
        self.drop_path_rate = 0.0  # set by the model, which knows the block's depth

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = x + drop_path(self.attn(self.norm1(x), grid), self.drop_path_rate, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path_rate, self.training)


class ConViT(nn.Module):
    """ConViT; with `local_up_to_layer=0` it is DeiT.

    Args:
        settings: those of `ConViTSettings`, by name; unnamed ones are ConViT-Ti's. ValueError for what cannot be.

    Attributes:
        pool: "token" or "mean"; class_token_at: the block before which the class token joins.
        local_layer: what the local layers are; a subclass may name another kind of `GPSA`.
    """

    local_layer: type[GPSA] = GPSA
    blocks: Any  # an nn.ModuleList, which cannot say that it holds `Block`s

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._settings = s = ConViTSettings(**settings)
        self.pool = s.pools_by
        self.class_token_at = s.local_up_to_layer if s.class_token_at is None else s.class_token_at
        self.patch_embed = PatchEmbed(s.img_size, s.patch_size, s.in_chans, s.embed_dim)
        G_h, G_w = self.grid
        self.cls_token = nn.Parameter(torch.empty(1, 1, s.embed_dim), requires_grad=self.pool == "token")
        self.pos_embed = nn.Parameter(torch.empty(1, G_h * G_w, s.embed_dim))  # absolute; the class token has none

        sizes = s.embed_dim, s.num_heads, s.qkv_bias
        start = s.locality_strength, s.positional_init, s.identity_values
        self.blocks = nn.ModuleList()
        for layer in range(s.depth):
            attn = self.local_layer(*sizes, *start) if layer < s.local_up_to_layer else SelfAttention(*sizes)
            self.blocks.append(Block(attn, s.embed_dim, s.mlp_ratio))
        self.norm = nn.LayerNorm(s.embed_dim, eps=1e-6)
        self.head = nn.Linear(s.embed_dim, s.num_classes) if s.num_classes else nn.Identity()
        self.set_drop_path(s.drop_path_rate)
        self._init_weights()

    @property
    def grid(self) -> Grid:
        """The patch grid (G_h, G_w)."""
        return self.patch_embed.grid

    @property
    def num_classes(self) -> int:
        """How many numbers the head gives: what its last linear layer says, and 0 for `nn.Identity` (features)."""
        sizes: list[Any] = [module.out_features for module in self.head.modules() if hasattr(module, "out_features")]
        return sizes[-1] if sizes else 0

    @property
    def config(self) -> dict:
        """The settings of the model as it is now, whatever was asked for: `type(model)(**model.config)` is its like.

        What may change later (image size, classes, stochastic depth) is read from the live model.
        """
        return asdict(self._settings) | {
            "img_size": self.patch_embed.input_shape[1:],
            "num_classes": self.num_classes,
            "drop_path_rate": self.blocks[-1].drop_path_rate,
        }

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth growing linearly from 0 at the first block to `rate` at the last."""
        if not 0 <= rate < 1:
            raise ValueError(f"A drop-path rate lies in [0, 1), got {rate}.")
        for layer, block in enumerate(self.blocks):
            block.drop_path_rate = rate * layer / max(1, len(self.blocks) - 1)

    def _init_weights(self) -> None:
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        gain = self._settings.init_gain
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                by_fan_in = gain and name.startswith("blocks.") and not name.endswith("pos_proj")
                nn.init.trunc_normal_(module.weight, std=gain / module.in_features**0.5 if by_fan_in else 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Only now: the loop above has redrawn v and pos_proj, and with them erased each GPSA's own start.
        for module in self.modules():
            if isinstance(module, GPSA):
                module.local_init()

    def forward(self, images: Tensor, trace: dict | None = None) -> Tensor:
        """Images (B, C, h, w) -> logits (B, num_classes), or features (B, D) without classes.

        A dict given as `trace` is filled with "blocks.0", "blocks.1", ...: the tokens (B, N, D) that enter each
        block, N being one more from `class_token_at` on; and "norm": the normalised tokens that leave the last.
        """
        x = self.patch_embed(images) + self.pos_embed  # (B, N, D)
        for layer, block in enumerate(self.blocks):
            if self.pool == "token" and layer == self.class_token_at:
                x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)  # (B, 1 + N, D), token first
            if trace is not None:
                trace[f"blocks.{layer}"] = x
            x = block(x, self.grid)
        x = self.norm(x)
        if trace is not None:
            trace["norm"] = x
        return self.head(x[:, 0] if self.pool == "token" else x.mean(dim=1))

    def attention_weights(self, trace: dict, layer: int) -> Tensor:
        """The attention (B, H, N, N) of one layer on its true input, from a `trace` that `forward` has filled."""
        block = self.blocks[layer]
        return block.attn.weights(block.norm1(trace[f"blocks.{layer}"]), self.grid)

    @torch.no_grad()
    def resized(self, img_size: int | Sequence[int]) -> "ConViT":
        """A copy of this model for images of another size, square or not.

        Positional attention depends on offsets alone and carries over exactly. The absolute embeddings belong
        to places in the old grid; they are interpolated (bicubic) to the new one.
        """
        model = copy.deepcopy(self)
        model.patch_embed.set_img_size(img_size)
        field = self.pos_embed.unflatten(1, self.grid).permute(0, 3, 1, 2)  # (1, D, G_h, G_w)
        field = field.to(at_least_float32(field))  # half precision has no bicubic kernel everywhere
        field = F.interpolate(field, size=model.grid, mode="bicubic", align_corners=False)
        embedding = field.flatten(2).transpose(1, 2).contiguous().to(self.pos_embed)  # (1, N, D)
        model.pos_embed = nn.Parameter(embedding, self.pos_embed.requires_grad)
        return model


# The paper's sizes with their parameters (1000 classes). What an entry leaves out is the default:
# 224 x 224 pixels in 16 x 16 patches, 12 blocks, the first 10 GPSA, no qkv bias.
_DEIT = dict(local_up_to_layer=0, qkv_bias=True)
CONFIGS: dict[str, dict] = {
    "convit_tiny": dict(embed_dim=192, num_heads=4),  # 5,710,512
    "convit_small": dict(embed_dim=432, num_heads=9),  # 27,777,322
    "convit_base": dict(embed_dim=768, num_heads=16),  # 86,540,040
    "convit_tiny_plus": dict(embed_dim=256, num_heads=4),  # 9,972,912
    "convit_small_plus": dict(embed_dim=576, num_heads=9),  # 48,979,882
    "convit_base_plus": dict(embed_dim=1024, num_heads=16),  # 153,134,856
    "deit_tiny": dict(embed_dim=192, num_heads=3, **_DEIT),
    "deit_small": dict(embed_dim=384, num_heads=6, **_DEIT),
    "deit_base": dict(embed_dim=768, num_heads=12, **_DEIT),
    # Small sizes, nine heads each: 28 x 28 grey (Fashion-MNIST; its start was searched: chapter 06), 32 x 32 (CIFAR),
    # 64 x 64 colour.
    "convit_mini_28": dict(
        img_size=28, patch_size=4, in_chans=1, num_classes=10, embed_dim=72, depth=6, num_heads=9, local_up_to_layer=4,
        init_gain=1.0,
    ),
    "convit_mini_32": dict(
        img_size=32, patch_size=4, num_classes=100, embed_dim=216, depth=7, num_heads=9, local_up_to_layer=5
    ),
    "convit_mini_64": dict(
        img_size=64, patch_size=8, num_classes=10, embed_dim=144, depth=8, num_heads=9, local_up_to_layer=6
    ),
}


def create_model(name: str, seed: int | None = None, **overrides: Any) -> ConViT:
    """A named configuration, with any constructor argument overridden.

    `create_model(name, local_up_to_layer=0)` is the DeiT of equal size to any ConViT. A `seed` fixes the initial
    weights and leaves torch's own random state on the CPU as it was. ValueError for an unknown name.
    """
    if name not in CONFIGS:
        raise ValueError(f"Unknown model {name!r}; known: {', '.join(CONFIGS)}.")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return ConViT(**CONFIGS[name] | overrides)
