"""The checks of chapter 11: the right answer passes, typical wrong ones are told what is wrong."""

from math import exp

import torch
from verdicts import verdict_test

from convit_edu.beyond.cost import multiply_adds
from convit_edu.book.checks import from_cnn_to_convit as checks
from convit_edu.positions import kernel_centres

CASES = {}


def tap(weight, head, swap=False, mirror=False, transpose=False):
    x, y = kernel_centres(9)[head].long()
    x, y = (y, x) if swap else (x, y)
    found = weight[:, :, 1 - y, 1 - x] if mirror else weight[:, :, y + 1, x + 1]
    return found.T if transpose else found


CASES["tap_of_head"] = [
    (tap, "Correct."),
    (lambda w, h: None, "your tap of head 0 is None"),
    (lambda w, h: tap(w, h, swap=True), "rows and columns are exchanged: a weight is"),
    (lambda w, h: tap(w, h, mirror=True), "the filter is mirrored: PyTorch"),
    (lambda w, h: tap(w, h, swap=True, mirror=True), "rows and columns are exchanged, and the filter is mirrored"),
    (lambda w, h: tap(w, h, transpose=True), "the matrix is transposed"),
    (lambda w, h: tap(w, h, swap=True, transpose=True), "transposed, and rows and columns"),
    (lambda w, h: w[:, :, 0, 0], "kernel_centres(9)[h]"),
    (lambda w, h: w, "expected (4, 4)"),
]


def matrices(taps):
    D = taps.shape[-1]
    return taps.permute(1, 0, 2).reshape(D, 9 * D), torch.eye(D).double().repeat(9, 1)


CASES["factors"] = [
    (matrices, "Correct."),
    (lambda t: (torch.eye(4).double().repeat(1, 9), t.reshape(36, 4)), "Correct."),  # the tap in the values
    (lambda t: None, "two matrices are wanted"),
    (lambda t: matrices(t)[::-1], "the shapes are exchanged"),
    (lambda t: matrices(t.transpose(1, 2)), "the matrix of every head is transposed"),
    (lambda t: matrices(t.flip(0)), "opposite order"),
    (lambda t: matrices(t / 9), "added, not averaged"),
    (lambda t: (matrices(t)[0], t.reshape(36, 4)), "the squares of the taps"),
    (lambda t: (torch.eye(4).double().repeat(1, 9), matrices(t)[1]), "the products are the identity"),
    (lambda t: (t.permute(1, 2, 0).reshape(4, 36), torch.eye(4).double().repeat_interleave(9, 0)), "interleaved"),
    (lambda t: (t.reshape(4, 36), matrices(t)[1]), "must be tap h"),
]


def ranks(taps):
    return torch.linalg.matrix_rank(taps)


CASES["least_width"] = [
    (lambda t: int(ranks(t).max()), "Correct."),
    (lambda t: None, "the function returned None"),
    (lambda t: 1, "is it enough for every tap?"),
    (lambda t: t.shape[-1], "These taps have low rank"),
    (lambda t: 6 if ranks(t).min() == 6 else int(ranks(t).sum()), "the tap with the highest rank decides"),
    (lambda t: 9 * int(ranks(t).max()), "not that of all nine together"),
    (lambda t: 5, "the highest rank of these taps is 6, and you say 5"),
]


def line(strength, power=2):
    return sum(exp(-strength * abs(k) ** power) for k in range(-40, 41))


CASES["leak"] = [
    (lambda s: 1 - line(s) ** -2, "Correct."),
    (lambda s: None, "your answer is None"),
    (lambda s: line(s) ** -2, "this is the share that stays"),
    (lambda s: 1 - 1 / line(s), "this is one row of patches alone"),
    (lambda s: 4 * exp(-s), "does not divide by the sum"),
    (lambda s: line(s) ** 2 - 1, "divide by the sum of all"),
    (lambda s: 1 - line(s, 1) ** -2, "the distance is squared"),
    (lambda s: 1 - 1 / (1 + 4 * exp(-s) + 4 * exp(-2 * s)), "the eight nearest are not all"),
    (lambda s: 0.5, "at strength 1 it is"),
]

CASES["relax_steps"] = [
    (lambda c, m, a, b: (a * multiply_adds(c) + b * multiply_adds(m)) / multiply_adds(m), "Correct."),
    (lambda c, m, a, b: None, "the function returned None"),
    (lambda c, m, a, b: a + b, "this counts steps"),
    (lambda c, m, a, b: a + b * multiply_adds(m) / multiply_adds(c), "these are steps of a CNN"),
    (lambda c, m, a, b: a * multiply_adds(c) / multiply_adds(m), "this is the CNN's part alone"),
    (lambda c, m, a, b: (a * multiply_adds(m) + b * multiply_adds(c)) / multiply_adds(m), "the CNN comes first"),
    (lambda c, m, a, b: 5, "steps, not 5"),
]


test_the_verdict = verdict_test(CASES, checks)
