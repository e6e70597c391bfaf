"""The checks of chapter 02: the right answer passes, typical wrong ones are told what is wrong."""

import torch
import torch.nn.functional as F
from verdicts import verdict_test


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


CASES = {
    "cut_patches": [
        (cut, "Correct."),
        (lambda images, p: F.unfold(images, p, stride=p).mT, "Correct."),
        (lambda images, p: cut(images, p, (0, 4, 2, 1, 3, 5)), "column by column"),
        (lambda images, p: cut(images, p, (0, 2, 4, 3, 5, 1)), "colours first"),
        (lambda images, p: cut(images, p, (0, 2, 4, 1, 5, 3)), "rows and columns are exchanged"),
        (lambda images, p: images.reshape(2, 6, 12), "cuts stripes"),
        (lambda images, p: F.unfold(images, p, stride=p), "has shape (2, 12, 6), expected (2, 6, 12)"),
        (lambda images, p: 2 * cut(images, p), "token 0 should be"),
        (lambda images, p: ..., "your answer is Ellipsis"),
    ],
    "attention_cost": [
        (lambda N, D: 4 * N * D**2 + 2 * N**2 * D, "Correct."),
        (lambda N, D: 3 * N * D**2 + 2 * N**2 * D, "W_out is a product, too"),
        (lambda N, D: 4 * N * D**2 + N**2 * D, "two products of size N²"),
        (lambda N, D: 4 * N * D**2, "are missing"),
        (lambda N, D: 2 * N**2 * D, "the four maps of every token"),
        (lambda N, D: 8 * N * D**2 + 4 * N**2 * D, "additions as well"),
        (lambda N, D: 4 * D**2 + 2 * N**2 * D, "every one of the N tokens"),
        (lambda N, D: 7, "product by product"),
        (lambda N, D: None, "the function returned None"),
    ],
    "multi_head": [
        (attention, "Correct."),
        (lambda x, layer: layer(x), "Correct."),
        (lambda x, layer: attention(x, layer, project=False), "W_out and its bias are missing"),
        (lambda x, layer: attention(x, layer) - layer.proj.bias, "the bias of W_out is missing"),
        (lambda x, layer: attention(x, layer, scale=1), "not divided by sqrt(d)"),
        (lambda x, layer: attention(x, layer, scale=6**-0.5), "you divide by sqrt(D)"),
        (lambda x, layer: attention(x, layer, scale=0.5), "not by its root"),
        (lambda x, layer: attention(x, layer, dim=-2), "runs over queries"),
        (lambda x, layer: attention(x, layer, move=False), "tokens get mixed up"),
        (lambda x, layer: attention(x, layer, packed="H3d"), "split 3 before H"),
        (one_head, "one head of width D"),
        (lambda x, layer: x, "compare each head"),
        (lambda x, layer: x[0], "expected (2, 5, 6)"),
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
        (lambda grid: None, "the function returned None"),
    ],
}

test_the_verdict = verdict_test(CASES)
