"""Trained networks and pictures as text that a page can hold, for `static/convit.js` to compute.

A matrix is rounded to 8 bits with one scale a row; what is no matrix, and small ones, are float16. So a network of
147,000 parameters is 190 kB of text. `rounded` is the network that the page then computes, for whoever compares.
"""

import base64
import copy
import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..data import Dataset
from ..lab import records
from ..model import ConViT

# RFC 1924's 85 signs without those that mean something in HTML (<, &) or look like a progress bar (%).
LETTERS = str.maketrans("<&%", ",.:")
SMALL = 1000  # numbers: a matrix with fewer, such as `pos_proj.weight`, stays float16
LEVELS = 127
CONFIG = ("patch_size", "embed_dim", "depth", "num_heads", "local_up_to_layer")


def as_text(content: bytes) -> str:
    """Bytes as signs that may stand in HTML and in JSON, five for every four bytes; zeros fill up the last four."""
    return base64.b85encode(content, pad=True).decode().translate(LETTERS)


def packed(model: nn.Module) -> dict:
    """A ConViT or DeiT for a page: its shape, the name, shape and kind of each tensor, and all of them as one text.

    Raises ValueError for weights that are not finite, or that float16 does not hold, and for a model that the script
    does not compute: more than one channel, biases of queries, keys and values, one softmax over both scores, or
    the mean of the tokens in place of a class token.
    """
    config, state = model.config, model.state_dict()
    if type(model) is not ConViT or config["in_chans"] != 1 or config["qkv_bias"] or model.pool != "token":
        raise ValueError(
            "A page computes networks for grey images, with gated mixing and a class token, without qkv_bias."
        )
    told = {name: config[name] for name in CONFIG} | {"grid": list(model.grid), "class_token_at": model.class_token_at}
    tensors, content = [], bytearray()
    for name, value in state.items():
        if not torch.isfinite(value.half()).all():
            raise ValueError(f"{name} holds numbers that are not finite in float16; a page cannot compute it.")
        kind, encoded = "half", value.half().cpu().numpy().astype("<f2").tobytes()
        if value.numel() >= SMALL:
            scales, levels = _levels(value)
            kind, encoded = "rows", scales.numpy().astype("<f2").tobytes() + levels.to(torch.int8).numpy().tobytes()
        tensors.append([name, list(value.shape), kind])
        content += encoded
    return {"config": told, "tensors": tensors, "text": as_text(bytes(content))}


def rounded(model: nn.Module) -> nn.Module:
    """A copy of the model with the weights that a page has: those of `packed`."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.numel() >= SMALL:
                scales, levels = _levels(value)
                value.copy_((scales.float()[:, None] * levels).reshape(value.shape))
            else:
                value.copy_(value.half())
    return model


def _levels(value: Tensor) -> tuple[Tensor, Tensor]:
    """Scales (rows,) in float16 and whole numbers from -127 to 127 (rows, the rest)."""
    value = value.detach().float().cpu()
    rows = (value[0] if value.shape[0] == 1 else value).flatten(1)  # pos_embed is (1, N, D)
    scales = (rows.abs().amax(1) / LEVELS).half().clamp_min(torch.finfo(torch.float16).tiny)
    return scales, (rows / scales.float()[:, None]).round().clamp(-LEVELS, LEVELS)


def pictures(data: Dataset, each: int = 10, first: int = 2) -> dict:
    """The first `each` test images of every class for a page: grey, (h, w), in an order that takes each class in turn.

    `first` of each class come first and are what a reader chooses from; accuracy is measured on all of them.
    ValueError where a class has fewer.
    """
    by_class = [(data.test_labels == label).nonzero().flatten()[:each] for label in range(data.num_classes)]
    if any(len(found) < each for found in by_class):
        raise ValueError(f"{data.name} has a class with fewer than {each} test images.")
    numbers = torch.stack(by_class, dim=1).flatten()  # (each * K,): one of each class, then another of each
    images = data.test_images[numbers][:, 0]  # (M, h, w)
    return {
        "text": as_text(images.numpy().tobytes()), "labels": data.test_labels[numbers].tolist(),
        "numbers": numbers.tolist(), "size": list(images.shape[1:]), "classes": list(data.classes),
        "shown": first * data.num_classes, "mean": data.mean.item(), "std": data.std.item(),
    }  # fmt: skip


def script(name: str, value: Mapping) -> str:
    """The script that gives a page one of its networks, or its pictures."""
    content = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return f"(window.convitData ||= {{}})[{json.dumps(name)}] = {content};\n"


def moments() -> dict:
    """The shipped networks before the end of their training: by name and number of steps done, as `packed`."""
    return {
        name: {step: packed(records.checkpoint(name, step=step)) for step in records.moments(name)}
        for name in ("convit", "deit")
    }
