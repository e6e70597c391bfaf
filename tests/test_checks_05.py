"""The checks of chapter 05: the right answer passes, typical wrong ones are told what is wrong."""

import torch
from torch import nn
from verdicts import verdict_test

from convit_edu import create_model
from convit_edu.attention import GPSA

CASES = {}

CASES["gpsa_parameters"] = [
    (lambda D, H: 4 * D**2 + D + 5 * H, "Correct."),
    (lambda D, H: 4 * D**2 + D, "pos_proj and the gates are missing"),
    (lambda D, H: 4 * D**2 + 5 * H, "the output projection has a bias"),
    (lambda D, H: 4 * D**2 + D + 4 * H, "every head a gate: count both"),
    (lambda D, H: 4 * D**2 + 4 * D + 5 * H, "queries, keys and values have no bias"),
    (lambda D, H: 7, "go part by part"),
    (lambda D, H: None, "the function returned None"),
    (lambda D, H: 1 / 0, "your code stopped with ZeroDivisionError"),
]

CASES["token_counts"] = [
    (lambda g, L, n: [g[0] * g[1]] * n + [g[0] * g[1] + 1] * (L - n), "Correct."),
    (lambda g, L, n: [g[0] * g[1] + 1] * L, "joins after the last GPSA block, not at the input"),
    (lambda g, L, n: [g[0] * g[1] + (i > n) for i in range(L)], "you are one block late"),
    (lambda g, L, n: [g[0] * g[1]], "you give 1 numbers; one a block is wanted"),
    (lambda g, L, n: [g[0] * g[1]] * L, "you give [49, 49, 49, 49, 49, 49], it is"),
    (lambda g, L, n: None, "the function returned None"),
]

CASES["late_token"] = [
    ({"local_up_to_layer": 0, "class_token_at": 4}, "Correct."),
    ({}, "there are still GPSA layers"),
    ({"local_up_to_layer": 0}, "the class token joins before block 0"),
    ({"local_up_to_layer": 0, "pool": "mean"}, "no class token at all"),
    ({"local_up_to_layer": 0, "class_token_at": 4, "embed_dim": 144}, "a control changes one thing only"),
]


def local_init(model):
    for module in model.modules():
        if isinstance(module, GPSA):
            module.local_init()


def identity_only(model):
    for module in model.modules():
        if isinstance(module, GPSA):
            nn.init.eye_(module.v.weight)


def also_the_head(model):
    local_init(model)
    nn.init.zeros_(model.head.weight)


CASES["repair"] = [
    (local_init, "Correct."),
    (identity_only, "pos_proj.weight does not hold the centres"),
    (lambda model: model._init_weights(), "has changed; a trained network would have lost it"),
    (also_the_head, "head.weight has changed"),
    (lambda model: None, "v.weight is not the identity yet"),
]


def token_at_the_input(model, images):
    x = model.patch_embed(images) + model.pos_embed
    for layer, block in enumerate(model.blocks):
        if layer == model.config["local_up_to_layer"]:
            x = torch.cat((model.cls_token.expand(len(x), -1, -1), x), dim=1)
        x = block(x, model.grid)
    return model.head(model.norm(x)[:, 0])


CASES["forward"] = [
    (lambda model, images: model(images), "Correct."),
    (token_at_the_input, "class_token_at=5 the output differs: where does the class token join"),
    (lambda m, x: m(x) if m.pool == "token" else m(x) + 1, "average the patch tokens"),
    (lambda m, x: None, "the output for the plain ConViT is None"),
    (lambda m, x: m(x).T, "has shape (10, 2), expected (2, 10)"),
]


test_the_verdict = verdict_test(CASES, late_token=lambda answer: create_model("convit_mini_28", **answer))
