"""The checks of chapter 04: the right answer passes, typical wrong ones are told what is wrong."""

import torch
from verdicts import verdict_test


def mix(content, position, lam, dim=-1):
    gate = lam.sigmoid()[:, None, None]
    return (1 - gate) * content.softmax(dim) + gate * position.softmax(dim)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def gradient(P, C, lam, dL_dA):
    g = lam.sigmoid()
    return g * (1 - g) * ((P - C) * dL_dA).sum((0, 2, 3))


CASES = {
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
        (lambda c, p, lam: mix(c, p, lam)[0], "your answer has shape (4, 4), expected (2, 4, 4)"),
        (lambda c, p, lam: ..., "your answer is Ellipsis"),
        (lambda c, p, lam: None, "your answer is None"),
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
        (lambda a: a * tensor(1, 1, 1), "multiply out"),
    ],
    "strength": [
        (lambda w: 1 / (2 * w**2), "Correct."),
        (lambda w: 1 / w**2, "the 2 is missing"),
        (lambda w: 2 * w**2, "the other way round"),
        (lambda w: 1 / (2 * w), "the variance is its square"),
        (lambda w: (2 * w) ** -0.5, "asks for the way back"),
        (lambda w: 2 / w**2, "below the line"),
        (lambda w: 1.0, "solve width²"),
        (lambda w: None, "your answer is None"),
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
        (lambda P, C, lam, d: lam, "chain rule"),
    ],
    "filter_row": [
        (lambda kernel: kernel.T.flatten(), "Correct."),
        (lambda kernel: [kernel[h % 3, h // 3] for h in range(9)], "Correct."),
        (lambda kernel: kernel.flatten(), "rows and columns are exchanged: head h"),
        (lambda kernel: kernel.T.flip(0, 1).flatten(), "your filter is turned by 180 degrees"),
        (lambda kernel: kernel.flip(0, 1).flatten(), "exchanged, and the filter is turned"),
        (lambda kernel: torch.ones(9), "for each head, which entry"),
        (lambda kernel: kernel, "your answer has shape (3, 3), expected (9,)"),
    ],
}

test_the_verdict = verdict_test(CASES)
