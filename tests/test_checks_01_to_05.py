"""The checks of chapters 01 to 05: the right answer passes, typical wrong ones are told what is wrong."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from verdicts import verdict_test

from convit_edu import create_model
from convit_edu.attention import GPSA
from convit_edu.book import checks

CASES = {}

# --- chapter 01: images are local


def correlation(image, d, centre=True, divide=True, across=True, down=True):
    x = image - image.mean() if centre else image
    products = [(x[:, d:] * x[:, :-d]).flatten()] * across + [(x[d:] * x[:-d]).flatten()] * down
    return torch.cat(products).mean() / (image.var(correction=0) if divide else 1)


def wrapping(image, d):
    z = (image - image.mean()) / image.std(correction=0)
    return ((z * z.roll(d, 0)).mean() + (z * z.roll(d, 1)).mean()) / 2


def nearest(W, G, mean=True):
    kernel, number = torch.zeros(3, 3).double(), torch.zeros(3, 3)
    for i in range(G * G):
        for j in range(G * G):
            y, x = j // G - i // G, j % G - i % G
            if abs(y) <= 1 and abs(x) <= 1:
                kernel[y + 1, x + 1] += W[i, j]
                number[y + 1, x + 1] += 1
    return kernel / number if mean else kernel


CASES |= {
    "correlation": [
        (correlation, "Correct."),
        (lambda i, d: correlation(i, d, divide=False), "this is a covariance"),
        (lambda i, d: correlation(i, d, centre=False), "the mean of the image is not subtracted."),
        (lambda i, d: correlation(i, d, centre=False, divide=False), "nor is the variance"),
        (lambda i, d: correlation(i, d, down=False), "only pairs within a row"),
        (lambda i, d: correlation(i, d, across=False), "only pairs within a column"),
        (lambda i, d: correlation(i, d, divide=False) / i.std(correction=0), "not by the standard deviation"),
        (lambda i, d: correlation(i, d, divide=False) / i.var(), "not by one less"),
        (lambda i, d: (correlation(i, d, down=False) + correlation(i, d, across=False)) / 2, "all pairs count alike"),
        (wrapping, "wrap around"),
    ],
    "first_layer": [
        (lambda W, p: W[:, p], "Correct."),
        (lambda W, p: W, "these are the old weights"),
        (lambda W, p: W[:, p.argsort()], "this is the inverse permutation"),
    ],
    "nearest_kernel": [
        (nearest, "Correct."),
        (lambda W, G: nearest(W, G, mean=False), "this is the sum"),
        (lambda W, G: nearest(W, G, mean=False) / G**2, "fewer pairs"),
        (lambda W, G: nearest(W, G).flip(0, 1), "turned by 180 degrees"),
        (lambda W, G: nearest(W, G).T, "exchanged"),
    ],
}

# --- chapter 02: self-attention


def cut(images, p, axes=(0, 2, 4, 1, 3, 5)):
    B, C, h, w = images.shape
    parts = images.reshape(B, C, h // p, p, w // p, p).permute(axes)
    return parts.reshape(B, h * w // p**2, C * p * p)


def attention(x, layer, scale=None, dim=-1, move=True, project=True, packed="3Hd"):
    B, N, D = x.shape
    H, d = layer.num_heads, layer.head_dim
    qkv = layer.qkv(x)
    if packed == "3Hd":
        q, k, v = qkv.reshape(B, N, 3, H, d).permute(2, 0, 3, 1, 4)
    else:
        q, k, v = qkv.reshape(B, N, H, 3, d).permute(3, 0, 2, 1, 4)
    heads = (q @ k.mT * (d**-0.5 if scale is None else scale)).softmax(dim) @ v
    out = (heads.transpose(1, 2) if move else heads).reshape(B, N, D)
    return layer.proj(out) if project else out


def one_head(x, layer):
    q, k, v = layer.qkv(x).chunk(3, dim=-1)
    return layer.proj((q @ k.mT / x.shape[-1] ** 0.5).softmax(-1) @ v)


def shift(offset, size=60.0):
    """Maps by which token i scores `size` / sqrt(N) with token i + offset, in whatever row that is."""

    def maps(grid):
        N = grid[0] * grid[1]
        return size * torch.eye(N).roll(offset, dims=1), torch.eye(N)

    return maps


def swapped(grid):
    W_qry, W_key = shift(1)(grid)
    return W_key, W_qry


CASES |= {
    "cut_patches": [
        (cut, "Correct."),
        (lambda images, p: cut(images, p, (0, 4, 2, 1, 3, 5)), "column by column"),
        (lambda images, p: cut(images, p, (0, 2, 4, 3, 5, 1)), "colours first"),
        (lambda images, p: cut(images, p, (0, 2, 4, 1, 5, 3)), "rows and columns are exchanged"),
        (lambda images, p: images.reshape(2, 6, 12), "cuts stripes"),
        (lambda images, p: F.unfold(images, p, stride=p), "has shape (2, 12, 6), expected (2, 6, 12)"),
    ],
    "attention_cost": [
        (lambda N, D: 4 * N * D**2 + 2 * N**2 * D, "Correct."),
        (lambda N, D: 3 * N * D**2 + 2 * N**2 * D, "W_out is a product, too"),
        (lambda N, D: 4 * N * D**2 + N**2 * D, "two products of size N²"),
        (lambda N, D: 4 * N * D**2, "are missing"),
        (lambda N, D: 2 * N**2 * D, "the four maps of every token"),
        (lambda N, D: 8 * N * D**2 + 4 * N**2 * D, "additions as well"),
        (lambda N, D: 4 * D**2 + 2 * N**2 * D, "every one of the N tokens"),
    ],
    "multi_head": [
        (attention, "Correct."),
        (lambda x, layer: attention(x, layer, project=False), "W_out and its bias are missing"),
        (lambda x, layer: attention(x, layer) - layer.proj.bias, "the bias of W_out is missing"),
        (lambda x, layer: attention(x, layer, scale=1), "not divided by sqrt(d)"),
        (lambda x, layer: attention(x, layer, scale=6**-0.5), "you divide by sqrt(D)"),
        (lambda x, layer: attention(x, layer, scale=0.5), "not by its root"),
        (lambda x, layer: attention(x, layer, dim=-2), "runs over queries"),
        (lambda x, layer: attention(x, layer, move=False), "tokens get mixed up"),
        (lambda x, layer: attention(x, layer, packed="H3d"), "split 3 before H"),
        (one_head, "one head of width D"),
        (lambda x, layer: x.view(7), "your code stopped with RuntimeError"),
    ],
    "look_right": [
        (shift(1), "Correct."),
        (shift(-1), "the head looks to the left"),
        (swapped, "the head looks to the left"),
        (shift(0), "every token attends to itself"),
        (lambda grid: shift(grid[1])(grid), "the head looks down"),
        (shift(1, size=3.0), "the scores must be larger"),
        (shift(1, size=0.0), "the attention is uniform"),
        (shift(1, size=float("inf")), "not infinite ones"),
        (shift(2), "the right neighbour gets only 0.00"),
        (lambda grid: shift(1)((3, 3)), "W_qry has shape (9, 9), expected (8, 8)"),
    ],
}

# --- chapter 03: a convolution, written as attention


def count(centre):
    return 2 ** sum(c % 1 == 0.5 for c in centre)


def dense(kernel):
    return torch.cat([kernel[:, :, h % 3, h // 3] for h in range(9)], dim=1)


def ring(layer, tokens, grid, left=1, right=1, wide=None):
    rows, columns = grid
    image = tokens.transpose(1, 2).reshape(len(tokens), -1, rows, columns)
    image = F.pad(image, (left, right, left, right))
    out = layer(image.flatten(2).transpose(1, 2), wide or tuple(image.shape[-2:]))
    out = out.transpose(1, 2).reshape(image.shape)[..., left : left + rows, left : left + columns]
    return out.flatten(2).transpose(1, 2)


def border_to_zero(layer, tokens, grid):
    inside = F.pad(torch.ones(grid[0] - 2, grid[1] - 2, dtype=torch.float64), (1, 1, 1, 1))
    return layer(tokens, grid) * inside.flatten()[:, None]


CASES |= {
    "centres": [
        (lambda w: w[:, :2] / (-2 * w[:, 2:]), "Correct."),
        (lambda w: w[:, :2] / (2 * w[:, 2:]), "the sign is wrong"),
        (lambda w: -w[:, :2] / w[:, 2:], "the 2 is missing"),
        (lambda w: w[:, :2] / 2, "divide by alpha, too"),
        (lambda w: (w[:, :2] / (-2 * w[:, 2:])).flip(1), "x and y are swapped"),
        (lambda w: w[:, :2], "these are the first two weights"),
        (lambda w: -w[:, :2] * w[:, 2:] / 2, "not by alpha / 2"),
    ],
    "sharing": [
        (count, "Correct."),
        (lambda c: 4, "count the patches"),
        (lambda c: 4 if count(c) > 1 else 1, "here only x is half-way"),
        (lambda c: 2 if count(c) > 1 else 1, "two choices each"),
        (lambda c: 2 ** sum(x % 1 != 0 for x in c), "only halves make ties"),
    ],
    "dense_weights": [
        (dense, "Correct."),
        (lambda k: dense(k.mT), "rows and columns are exchanged: head h"),
        (lambda k: dense(k.flip(2, 3)), "turned by 180 degrees: F.conv2d"),
        (lambda k: dense(k.mT.flip(2, 3)), "exchanged, and the kernel is turned"),
        (lambda k: torch.stack([k[:, :, h % 3, h // 3] for h in range(9)], dim=2).flatten(1), "in the wrong order"),
        (lambda k: k.flatten(1), "only kernel.flatten(1)"),
    ],
    "zero_padding": [
        (ring, "Correct."),
        (lambda layer, x, grid: layer(x, grid), "still replicate padding"),
        (border_to_zero, "you set the outputs at the border to zero"),
        (lambda layer, x, grid: ring(layer, x, grid, 0, 1), "only to the right and below"),
        (lambda layer, x, grid: ring(layer, x, grid, 1, 0), "only to the left and above"),
        (lambda layer, x, grid: ring(layer, x, grid, wide=(7, 6)), "even the inside is wrong"),
        (lambda layer, x, grid: 2 * layer(x, grid) - border_to_zero(layer, x, grid), "the inside is right"),
    ],
}

# --- chapter 04: two attentions and a gate


def mix(content, position, lam, dim=-1):
    gate = lam.sigmoid()[:, None, None]
    return (1 - gate) * content.softmax(dim) + gate * position.softmax(dim)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def gradient(P, C, lam, dL_dA):
    g = lam.sigmoid()
    return g * (1 - g) * ((P - C) * dL_dA).sum((0, 2, 3))


CASES |= {
    "mix": [
        (mix, "Correct."),
        (lambda c, p, lam: mix(p, c, lam), "the gate is swapped"),
        (lambda c, p, lam: (c + p).softmax(-1), "one softmax over the sum"),
        (lambda c, p, lam: torch.lerp(c, p, lam.sigmoid()[:, None, None]).softmax(-1), "mix after the two softmaxes"),
        (lambda c, p, lam: mix(c, p, lam, dim=-2), "runs over queries"),
        (lambda c, p, lam: torch.lerp(c.softmax(-1), p.softmax(-1), lam[:, None, None]), "you mix with lambda itself"),
        (lambda c, p, lam: c.softmax(-1) + p.softmax(-1), "the gate is missing"),
        (lambda c, p, lam: c, "a row must sum to 1"),
        (lambda c, p, lam: mix(c, p, lam.mean().expand(2)), "has every head its own gate?"),
    ],
    "positional_weights": [
        (lambda a: a * tensor(4, -2, -1), "Correct."),
        (lambda a: [4 * a, -2 * a, -a], "Correct."),
        (lambda a: a * tensor(2, -1, -1), "a factor 2 is missing"),
        (lambda a: a * tensor(-2, 4, -1), "x and y are swapped"),
        (lambda a: a * tensor(-4, 2, -1), "the sign of the offset is wrong"),
        (lambda a: a * tensor(4, -2, 1), "prefers patches far away"),
        (lambda a: a * tensor(-4, 2, 1), "every sign is wrong"),
        (lambda a: a * tensor(-1, 4, -2), "dx² + dy² comes last"),
        (lambda a: tensor(4, -2, -a), "not only the last"),
        (lambda a: tensor(4, -2, -1), "alpha is missing"),
    ],
    "strength": [
        (lambda w: 1 / (2 * w**2), "Correct."),
        (lambda w: 1 / w**2, "the 2 is missing"),
        (lambda w: 2 * w**2, "the other way round"),
        (lambda w: 1 / (2 * w), "the variance is its square"),
        (lambda w: (2 * w) ** -0.5, "asks for the way back"),
        (lambda w: 2 / w**2, "below the line"),
    ],
    "gate_gradient": [
        (gradient, "Correct."),
        (lambda P, C, lam, d: ((P - C) * d).sum((0, 2, 3)), "g (1 - g), is missing"),
        (lambda P, C, lam, d: -gradient(P, C, lam, d), "the sign is wrong"),
        (lambda P, C, lam, d: ((C - P) * d).sum((0, 2, 3)), "the slope is missing, and the sign is wrong"),
        (lambda P, C, lam, d: lam * (1 - lam) * ((P - C) * d).sum((0, 2, 3)), "not with lambda"),
        (lambda P, C, lam, d: gradient(P, C, lam, d) / 48, "you took the mean"),
        (lambda P, C, lam, d: gradient(P, C, lam, d) / 3, "sum over them, too"),
        (lambda P, C, lam, d: lam.sigmoid() * ((P - C) * d).sum((0, 2, 3)), "is g (1 - g), not g"),
    ],
    "filter_row": [
        (lambda kernel: kernel.T.flatten(), "Correct."),
        (lambda kernel: kernel.flatten(), "rows and columns are exchanged: head h"),
        (lambda kernel: kernel.T.flip(0, 1).flatten(), "your filter is turned by 180 degrees"),
        (lambda kernel: kernel.flip(0, 1).flatten(), "exchanged, and the filter is turned"),
    ],
}

# --- chapter 05: the network


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


def token_at_the_input(model, images):
    x = model.patch_embed(images) + model.pos_embed
    for layer, block in enumerate(model.blocks):
        if layer == model.config["local_up_to_layer"]:
            x = torch.cat((model.cls_token.expand(len(x), -1, -1), x), dim=1)
        x = block(x, model.grid)
    return model.head(model.norm(x)[:, 0])


CASES |= {
    "gpsa_parameters": [
        (lambda D, H: 4 * D**2 + D + 5 * H, "Correct."),
        (lambda D, H: 4 * D**2 + D, "pos_proj and the gates are missing"),
        (lambda D, H: 4 * D**2 + 5 * H, "the output projection has a bias"),
        (lambda D, H: 4 * D**2 + D + 4 * H, "every head a gate: count both"),
        (lambda D, H: 4 * D**2 + 4 * D + 5 * H, "queries, keys and values have no bias"),
    ],
    "token_counts": [
        (lambda g, L, n: [g[0] * g[1]] * n + [g[0] * g[1] + 1] * (L - n), "Correct."),
        (lambda g, L, n: [g[0] * g[1] + 1] * L, "joins after the last GPSA block, not at the input"),
        (lambda g, L, n: [g[0] * g[1] + (i > n) for i in range(L)], "you are one block late"),
        (lambda g, L, n: [g[0] * g[1]], "you give 1 numbers; one a block is wanted"),
        (lambda g, L, n: [g[0] * g[1]] * L, "you give [49, 49, 49, 49, 49, 49], it is"),
    ],
    "late_token": [
        ({"local_up_to_layer": 0, "class_token_at": 4}, "Correct."),
        ({}, "there are still GPSA layers"),
        ({"local_up_to_layer": 0}, "the class token joins before block 0"),
        ({"local_up_to_layer": 0, "pool": "mean"}, "no class token at all"),
        ({"local_up_to_layer": 0, "class_token_at": 4, "embed_dim": 144}, "a control changes one thing only"),
    ],
    "repair": [
        (local_init, "Correct."),
        (identity_only, "pos_proj.weight does not hold the centres"),
        (lambda model: model._init_weights(), "has changed; a trained network would have lost it"),
        (also_the_head, "head.weight has changed"),
    ],
    "forward": [
        (lambda model, images: model(images), "Correct."),
        (token_at_the_input, "class_token_at=5 the output differs: where does the class token join"),
        (lambda m, x: m(x) if m.pool == "token" else m(x) + 1, "average the patch tokens"),
    ],
}


test_the_verdict = verdict_test(CASES, late_token=lambda answer: create_model("convit_mini_28", **answer))


VALUES = {"changes", "forest", "late_token", "plan", "race", "row_d", "which_factorise"}  # the others take a function
FUNCTIONS = [name for name in vars(checks) if name.startswith("check_") and name.removeprefix("check_") not in VALUES]


@pytest.mark.parametrize("check", FUNCTIONS)
@pytest.mark.parametrize("nothing", [None, ...])
def test_an_exercise_that_is_not_done_is_told_so(capsys, check, nothing):
    getattr(checks, check)(lambda *given: nothing)
    words = rf"(is|returned) {nothing}|returns nothing|are wanted|return two|return something"
    words = {"check_repair": "not the identity yet"}.get(check, words)
    assert re.match(rf"Not yet: .*({words})", capsys.readouterr().out)


@pytest.mark.parametrize("check", sorted(VALUES))
def test_a_value_that_is_not_there_is_told_so(capsys, check):
    getattr(checks, f"check_{check}")(None)
    assert capsys.readouterr().out.startswith("Not yet: ")
