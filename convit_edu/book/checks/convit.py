"""Checks for the exercises of chapter 05: the network."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...attention import GPSA
from ...model import ConViT, create_model
from .verdict import NotYet, close, exercise, given, tell, tensor


@exercise
def check_gpsa_parameters(count: Callable[[int, int], int]) -> None:
    """A function (D, H) -> number of parameters of a GPSA layer without qkv bias."""
    for D, H in ((192, 4), (432, 9), (36, 1)):
        expected, what = 4 * D**2 + D + 5 * H, f"for D={D}, H={H}"
        answer = given(count(D, H), f" {what}")
        tell(answer, expected, {
            "you have counted plain self-attention: pos_proj and the gates are missing": 4 * D**2 + D,
            "the output projection has a bias": 4 * D**2 + 5 * H,
            "pos_proj has a bias, and every head a gate: count both": 4 * D**2 + D + 4 * H,
            "pos_proj has a bias, and every head has a gate": 4 * D**2 + D + 3 * H,
            "queries, keys and values have no bias here": 4 * D**2 + 4 * D + 5 * H,
            "there are four D x D maps: queries, keys, values and the output": 3 * D**2 + D + 5 * H,
        }, f"{what} you count {answer:,}, it is {expected:,}; ", "go part by part", within=0)  # fmt: skip


@exercise
def check_token_counts(lengths: Callable[..., list[int]]) -> None:
    """A function (grid, depth, local_up_to_layer) -> tokens that enter each block."""
    for grid, depth, local in (((7, 7), 6, 4), ((4, 9), 3, 1), ((14, 14), 12, 0), ((3, 3), 5, 5)):
        what, patches = f"grid {grid}, {depth} blocks, {local} of them GPSA", grid[0] * grid[1]
        answer = list(given(lengths(grid, depth, local), f" for {what}"))
        if len(answer) != depth:
            raise NotYet(f"for {what} you give {len(answer)} numbers; one a block is wanted.")
        expected = [patches + (local <= layer and local < depth) for layer in range(depth)]
        if answer != expected:
            if answer == [patches + 1] * depth:
                raise NotYet(f"for {what}: the class token joins after the last GPSA block, not at the input.")
            if answer == [patches + (layer > local) for layer in range(depth)]:
                raise NotYet(f"for {what}: you are one block late; the first block after GPSA already has the token.")
            raise NotYet(f"for {what} you give {answer}, it is {expected}.")


@exercise
def check_late_token(model: ConViT) -> None:
    """A convit_mini_28 without GPSA whose class token joins at block 4."""
    if not isinstance(model, ConViT):
        raise NotYet(f"a ConViT is wanted, this is a {type(model).__name__}.")
    if any(isinstance(block.attn, GPSA) for block in model.blocks):
        raise NotYet("there are still GPSA layers; which argument sets their number?")
    if model.pool != "token":
        raise NotYet("this model pools by the mean and has no class token at all.")
    if model.class_token_at != 4:
        raise NotYet(f"the class token joins before block {model.class_token_at}; in the ConViT it is block 4.")
    if model.config["embed_dim"] != 72 or len(model.blocks) != 6 or model.config["num_heads"] != 9:
        raise NotYet("width, depth or heads have changed; a control changes one thing only.")


@exercise
def check_repair(repair: Callable[[ConViT], None]) -> None:
    """A function that gives a ConViT its local start back, in place, and leaves all else alone."""
    model = create_model("convit_mini_28", seed=0, positional_init=False, identity_values=False)
    for layer in model.modules():
        if isinstance(layer, GPSA):
            layer.positional_init = layer.identity_values = True
    before = {name: value.clone() for name, value in model.state_dict().items()}
    repair(model)
    fresh = create_model("convit_mini_28", seed=0).blocks[0].attn
    for name, value in model.state_dict().items():
        part = name.split("attn.")[-1]
        local = name.startswith("blocks") and int(name.split(".")[1]) < 4
        if local and part == "v.weight" and not torch.equal(value, fresh.v.weight):
            raise NotYet(f"{name} is not the identity yet.")
        if local and part == "pos_proj.weight" and not torch.equal(value, fresh.pos_proj.weight):
            raise NotYet(f"{name} does not hold the centres and the strength yet.")
        if not (local and part in ("v.weight", "pos_proj.weight")) and not torch.equal(value, before[name]):
            raise NotYet(f"{name} has changed; a trained network would have lost it.")


@exercise
def check_forward(forward: Callable[[ConViT, Tensor], Tensor]) -> None:
    """A forward pass (model, images) -> logits for every kind of ConViT."""
    images = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)).double()
    for overrides in (
        {}, {"local_up_to_layer": 0}, {"class_token_at": 5}, {"pool": "mean"}, {"local_up_to_layer": 6},
    ):  # fmt: skip
        model = create_model("convit_mini_28", seed=0, **overrides).double().eval()
        what = ", ".join(f"{name}={value!r}" for name, value in overrides.items()) or "the plain ConViT"
        answer, expected = tensor(forward(model, images), (2, 10), f"the output for {what}"), model(images)
        if not close(answer, expected):
            if model.pool == "mean":
                raise NotYet(f"for {what} the output differs: average the patch tokens, without a class token.")
            raise NotYet(f"for {what} the output differs: where does the class token join, and which token is read?")
