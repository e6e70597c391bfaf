"""To and from timm: official weights in, our weights out.

`from convit_edu.parity import timm` is how tests and chapters import timm: a plain `import timm` fails beside
a CPU-only torch. Chapter 05 teaches with it.
"""

import difflib
import math
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from ._torchvision import ensure_importable
from .attention import GPSA, SelfAttention
from .evaluation import evaluating
from .locality import gpsa_layers
from .model import ConViT

ensure_importable()
import timm  # noqa: E402  only now can it be imported
from timm.models.convit import ConVit  # noqa: E402

__all__ = ["from_timm", "relative_difference", "timm", "to_timm"]

PATIENCE = 3.0  # seconds in which the host of the weights has to answer


def from_timm(source: str | nn.Module, pretrained: bool = False) -> ConViT:
    """Our model with the weights of a timm ConViT, DeiT or ViT, given as a model or by timm's name.

    The two give the same logits, and stochastic depth comes along. A ViT adds a position to its class token before
    the first block; ours has none, so the two are summed into `cls_token`.

    Raises:
        ValueError: no model; a name that timm does not know; a timm model with parts, or with dropout, that ours lacks.
        ConnectionError: `pretrained` weights are neither in timm's cache nor to be fetched; after some seconds.
    """
    if isinstance(source, str):
        source = _named(source, pretrained)
    if not isinstance(source, nn.Module):
        raise ValueError(f"from_timm takes a model of timm's or the name of one, not {source!r}.")
    kind = f"timm's {type(source).__name__}"
    # torch's Dropout has its rate as p, timm's PatchDropout as prob.
    modules = source.named_modules()
    if dropping := {name.rpartition(".")[2] for name, m in modules if getattr(m, "p", 0) or getattr(m, "prob", 0)}:
        raise ValueError(f"{kind} has dropout that ConViT lacks: {', '.join(sorted(dropping))}; create it without.")
    state = dict(source.state_dict())
    if not isinstance(source, ConVit):
        state = _fold_class_position(state, source)
    model = ConViT(**_config_of(source)).to(state["pos_embed"])
    unlike = ValueError(
        f"{kind} has parts that ConViT lacks; give a ConViT, or a plain DeiT or ViT with a class token."
    )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise unlike from error
    theirs: Any
    for ours, theirs in zip(model.blocks, source.get_submodule("blocks").children(), strict=True):
        path = theirs.drop_path if isinstance(source, ConVit) else theirs.drop_path1
        ours.drop_path_rate = getattr(path, "drop_prob", 0.0)  # nn.Identity has none
    if not _same_logits(model, source):  # another activation, say, leaves no trace in a state dict
        raise unlike
    return model.train(source.training)


def _named(name: str, pretrained: bool) -> nn.Module:
    """timm's model of this name."""
    if ":" not in name and not timm.is_model(name):  # with a colon it is an address, such as hf-hub:owner/name
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise ValueError(f"timm knows no model {name!r}" + (f"; did you mean {', '.join(close)}?" if close else "."))
    if not pretrained:
        return timm.create_model(name)
    try:
        with _cache_alone_without_a_network():
            return timm.create_model(name, pretrained=True)
    except Exception as error:
        if not _network_failed(error):
            raise
        raise ConnectionError(
            f"The pretrained weights of {name} could not be fetched by timm ({type(error).__name__}); "
            "run once where there is a network, or use pretrained=False."
        ) from error


def _network_failed(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that a host did not answer."""
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError | socket.gaierror | URLError):
            return not isinstance(error, HTTPError)  # a host that says no has answered
        if type(error).__name__ == "LocalEntryNotFoundError":  # huggingface_hub's "neither cached nor reached"
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def _cache_alone_without_a_network() -> Iterator[None]:
    """Within this context huggingface_hub reads its cache alone if its host does not answer.

    By itself it asks again and again, for most of a minute. Where there is a proxy only that can tell.
    """
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    answered = threading.Event()

    def knock() -> None:  # in a thread, because to look up a name may take longer than any timeout
        with suppress(OSError):
            port = address.port or (80 if address.scheme == "http" else 443)
            socket.create_connection((address.hostname, port), PATIENCE).close()
            answered.set()

    before = constants.HF_HUB_OFFLINE
    if not {"https", "all"} & set(urllib.request.getproxies()):
        threading.Thread(target=knock, daemon=True).start()
        constants.HF_HUB_OFFLINE = before or not answered.wait(PATIENCE)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@torch.no_grad()
def _same_logits(model: ConViT, source: nn.Module) -> bool:
    """Whether the two agree on one random image, to what their precision allows."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, *model.patch_embed.input_shape, generator=generator).to(model.pos_embed)
    with evaluating(model), evaluating(source):
        difference = relative_difference(model(image), source(image))
    return difference < torch.finfo(image.dtype).eps ** 0.5


def _fold_class_position(state: dict[str, Tensor], source: Any) -> dict[str, Tensor]:
    """A ViT's state dict in our layout: the first row of pos_embed (1, 1 + N, D) belongs to the class token."""
    patches = source.patch_embed.num_patches
    if "cls_token" not in state or state["pos_embed"].shape[1] != patches + 1:
        raise ValueError(f"{type(source).__name__} has no class token with a position of its own to take over.")
    state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
    state["pos_embed"] = state["pos_embed"][:, 1:]
    return state


def _config_of(source: Any) -> dict:
    """The settings of the ConViT that a timm model corresponds to."""
    if source.global_pool != "token":
        raise ValueError(f"timm's global_pool={source.global_pool!r} has no equal here; use global_pool='token'.")
    block = source.blocks[0]
    convit = isinstance(source, ConVit)
    return dict(
        img_size=source.patch_embed.img_size,
        patch_size=source.patch_embed.patch_size[0],
        in_chans=source.patch_embed.proj.in_channels,
        num_classes=getattr(source.head, "out_features", 0),  # of the head that it has now
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

    timm knows square images only, the class token after the last GPSA layer and as output, GPSA and self-attention
    as they are here, and a head of one linear layer or none; ValueError names what differs.
    """
    config = model.config
    kinds = {type(block.attn) for block in model.blocks}
    same = {
        "img_size": config["img_size"][0] == config["img_size"][1],
        "class_token_at": model.class_token_at == len(gpsa_layers(model)),
        "pool": model.pool == "token",
        "attention layers": kinds <= {GPSA, SelfAttention},
        "head": isinstance(model.head, nn.Linear | nn.Identity),
    }
    if differing := [name for name in same if not same[name]]:
        raise ValueError(f"timm's ConViT has no equal to this model's {', '.join(differing)}.")
    shared = ["patch_size", "in_chans", "num_classes", "depth", "num_heads", "mlp_ratio", "qkv_bias"]
    shared += ["local_up_to_layer", "locality_strength", "drop_path_rate"]
    twin = ConVit(
        img_size=config["img_size"][0],
        embed_dim=config["embed_dim"] // config["num_heads"],  # timm multiplies it by the heads
        **{name: config[name] for name in shared},
    )
    try:
        twin.load_state_dict(model.state_dict())
    except RuntimeError as error:  # layers replaced or wrapped
        raise ValueError("timm's ConViT has no equal to some of this model's layers; they were replaced.") from error
    return twin.to(device=model.pos_embed.device, dtype=model.pos_embed.dtype).train(model.training)


def relative_difference(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors over the largest value of the second."""
    return ((a - b).abs().max() / b.abs().max().clamp_min(torch.finfo(b.dtype).tiny)).item()
