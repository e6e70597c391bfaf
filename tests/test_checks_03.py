"""The checks of chapter 03: the right answer passes, typical wrong ones are told what is wrong."""

import torch
import torch.nn.functional as F
from verdicts import verdict_test


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


CASES = {
    "centres": [
        (lambda w: w[:, :2] / (-2 * w[:, 2:]), "Correct."),
        (lambda w: w[:, :2] / (2 * w[:, 2:]), "the sign is wrong"),
        (lambda w: -w[:, :2] / w[:, 2:], "the 2 is missing"),
        (lambda w: w[:, :2] / 2, "divide by alpha, too"),
        (lambda w: (w[:, :2] / (-2 * w[:, 2:])).flip(1), "x and y are swapped"),
        (lambda w: w[:, :2], "these are the first two weights"),
        (lambda w: -w[:, :2] * w[:, 2:] / 2, "not by alpha / 2"),
        (lambda w: torch.ones(3, 2), "compare (w_x, w_y, w_d)"),
        (lambda w: w, "your answer has shape (3, 3), expected (3, 2)"),
        (lambda w: ..., "your answer is Ellipsis"),
    ],
    "sharing": [
        (count, "Correct."),
        (lambda c: 4, "count the patches"),
        (lambda c: 4 if count(c) > 1 else 1, "here only x is half-way"),
        (lambda c: 2 if count(c) > 1 else 1, "two choices each"),
        (lambda c: 2 ** sum(x % 1 != 0 for x in c), "only halves make ties"),
        (lambda c: None, "your answer is None"),
    ],
    "dense_weights": [
        (dense, "Correct."),
        (lambda k: dense(k.mT), "rows and columns are exchanged: head h"),
        (lambda k: dense(k.flip(2, 3)), "turned by 180 degrees: F.conv2d"),
        (lambda k: dense(k.mT.flip(2, 3)), "exchanged, and the kernel is turned"),
        (lambda k: torch.stack([k[:, :, h % 3, h // 3] for h in range(9)], dim=2).flatten(1), "in the wrong order"),
        (lambda k: k.flatten(1), "only kernel.flatten(1)"),
        (lambda k: torch.zeros(2, 27), "hold the matrix of head h's offset"),
        (lambda k: k, "your answer has shape (2, 3, 3, 3), expected (2, 27)"),
    ],
    "zero_padding": [
        (ring, "Correct."),
        (lambda layer, x, grid: layer(x, grid), "still replicate padding"),
        (border_to_zero, "you set the outputs at the border to zero"),
        (lambda layer, x, grid: ring(layer, x, grid, 0, 1), "only to the right and below"),
        (lambda layer, x, grid: ring(layer, x, grid, 1, 0), "only to the left and above"),
        (lambda layer, x, grid: ring(layer, x, grid, wide=(7, 6)), "even the inside is wrong"),
        (lambda layer, x, grid: 2 * layer(x, grid) - border_to_zero(layer, x, grid), "the inside is right"),
        (lambda layer, x, grid: layer(F.pad(x, (0, 0, 0, 22)), (6, 7)), "has shape (2, 42, 9), expected (2, 20, 9)"),
        (lambda layer, x, grid: layer(F.pad(x, (0, 0, 0, 22)), grid), "your code stopped with ValueError"),
    ],
}

test_the_verdict = verdict_test(CASES)
