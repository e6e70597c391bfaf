"""To and from timm: official weights in, our weights out.

`from convit_edu.parity import timm` is how tests and chapters import timm: a plain `import timm` fails beside
a CPU-only torch. Nothing else in the package imports it. Chapter 05 uses this module.
"""

import math

import torch
from torch import Tensor, nn

from ._torchvision import ensure_importable
from .model import ConViT

ensure_importable()
import timm  # noqa: E402  only now can it be imported
from timm.models.convit import ConVit  # noqa: E402

__all__ = ["from_timm", "relative_difference", "timm", "to_timm"]


def from_timm(source: str | nn.Module, pretrained: bool = False) -> ConViT:
    """Our model with the weights of a timm ConViT, DeiT or ViT, given as a model or by timm's name.

    The two give the same logits. A ViT adds a position to its class token before the first block; ours has
    none, so the two are summed into `cls_token`. ConnectionError, in one sentence, if `pretrained` weights
    cannot be fetched; ValueError for a timm model with parts that ours lacks.
    """
    if isinstance(source, str):
        try:
            source = timm.create_model(source, pretrained=pretrained)
        except Exception as error:
            if not pretrained or "Unknown model" in str(error):
                raise
            raise ConnectionError(
                f"The pretrained weights of {source} could not be fetched by timm ({type(error).__name__}); "
                "run once where there is a network, or use pretrained=False."
            ) from error
    state = dict(source.state_dict())
    if not isinstance(source, ConVit):
        state = _fold_class_position(state, source)
    model = ConViT(**_config_of(source)).to(source.pos_embed)
    unlike = ValueError(
        f"This {type(source).__name__} has parts that ConViT lacks; "
        "give a ConViT, or a plain DeiT or ViT with a class token."
    )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise unlike from error
    if not _same_logits(model, source):  # another activation, say, leaves no trace in a state dict
        raise unlike
    return model.train(source.training)


@torch.no_grad()
def _same_logits(model: ConViT, source: nn.Module) -> bool:
    """Whether the two agree on one random image, to what their precision allows."""
    image = torch.rand(1, *model.patch_embed.input_shape).to(model.pos_embed)
    training = source.training
    difference = relative_difference(model.eval()(image), source.eval()(image))
    source.train(training)
    return difference < torch.finfo(image.dtype).eps ** 0.5


def _fold_class_position(state: dict[str, Tensor], source: nn.Module) -> dict[str, Tensor]:
    """A ViT's state dict in our layout: the first row of pos_embed (1, 1 + N, D) belongs to the class token."""
    patches = source.patch_embed.num_patches
    if "cls_token" not in state or state["pos_embed"].shape[1] != patches + 1:
        raise ValueError(f"{type(source).__name__} has no class token with a position of its own to take over.")
    state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
    state["pos_embed"] = state["pos_embed"][:, 1:]
    return state


def _config_of(source: nn.Module) -> dict:
    """The constructor arguments of the ConViT that a timm model corresponds to."""
    if source.global_pool != "token":
        raise ValueError(f"timm's global_pool={source.global_pool!r} has no equal here; use global_pool='token'.")
    block = source.blocks[0]
    convit = isinstance(source, ConVit)
    return dict(
        img_size=source.patch_embed.img_size,
        patch_size=source.patch_embed.patch_size[0],
        in_chans=source.patch_embed.proj.in_channels,
        num_classes=source.num_classes,
        embed_dim=source.embed_dim,
        depth=len(source.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=block.mlp.fc1.out_features / source.embed_dim,
        qkv_bias=(block.attn.qk if hasattr(block.attn, "qk") else block.attn.qkv).bias is not None,
        local_up_to_layer=source.local_up_to_layer if convit else 0,
        locality_strength=source.locality_strength if convit else 1.0,
        # timm takes any number of heads; ours asks for a square one where it starts them as a kernel.
        positional_init=math.isqrt(block.attn.num_heads) ** 2 == block.attn.num_heads,
    )


def to_timm(model: ConViT) -> nn.Module:
    """A timm ConViT with our weights: the same logits and gradients.

    timm knows square images only, the class token after the last GPSA layer, gated mixing and the class token
    as output; ValueError names what differs.
    """
    config = model.config
    differing = [
        name
        for name, same in {
            "img_size": config["img_size"][0] == config["img_size"][1],
            "class_token_at": model.class_token_at == config["local_up_to_layer"],
            "mixing": config["mixing"] == "gated",
            "pool": model.pool == "token",
        }.items()
        if not same
    ]
    if differing:
        raise ValueError(f"timm's ConViT has no equal to this model's {', '.join(differing)}.")
    shared = ("patch_size", "in_chans", "num_classes", "depth", "num_heads", "mlp_ratio", "qkv_bias")
    shared += ("local_up_to_layer", "locality_strength")
    twin = ConVit(
        img_size=config["img_size"][0],
        embed_dim=config["embed_dim"] // config["num_heads"],  # timm multiplies it by the heads
        **{name: config[name] for name in shared},
    )
    twin.load_state_dict(model.state_dict())
    return twin.to(device=model.pos_embed.device, dtype=model.pos_embed.dtype).train(model.training)


def relative_difference(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors over the largest value of the second."""
    return ((a - b).abs().max() / b.abs().max().clamp_min(torch.finfo(b.dtype).tiny)).item()
