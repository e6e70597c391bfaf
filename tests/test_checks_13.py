"""The checks of chapter 13: the right answer passes, typical wrong ones are told what is wrong."""

import sys

import torch
from verdicts import verdict_test

import convit_edu.book.checks.imagenet  # noqa: F401


def cost(images, epochs, rate, gpus, watts):
    hours = images * epochs / (rate * gpus) / 3600
    return hours, hours * gpus * watts / 1000


def order(images, groups, repeats, epoch, group, copy="interleave", deal="cards", cut=True):
    shuffled = torch.randperm(images, generator=torch.Generator().manual_seed(epoch))
    copies = shuffled.repeat(repeats) if copy == "tile" else shuffled.repeat_interleave(repeats)
    mine = copies[group::groups] if deal == "cards" else copies[group * (len(copies) // groups) :]
    return mine[: -(-images // groups)].tolist() if cut else mine.tolist()


CASES = {
    "cost": [
        (cost, "Correct."),
        (lambda *a: (cost(*a)[0] * 3600, 0), "these are seconds"),
        (lambda *a: (cost(*a)[0] * 4, 0), "these are GPU-hours"),
        (lambda *a: (cost(*a)[0] / 10, 0), "this is one epoch"),
        (lambda *a: (99, 0), "hours: it is 1, you have 99"),
        (lambda *a: (cost(*a)[0], 1000), "these are watt-hours"),
        (lambda *a: (cost(*a)[0], 0.25), "all GPUs draw power"),
        (lambda *a: (cost(*a)[0], 3.6), "these are megajoules"),
        (lambda *a: (cost(*a)[0], 5), "energy in kWh: it is 1, you have 5"),
        (lambda *a: None, "the function returned None"),
    ],
    "group_order": [
        (order, "Correct."),
        (lambda *a: order(*a, cut=False), "too long: a group takes 5 of 10 images"),
        (lambda *a: order(*a, copy="tile"), "stand side by side"),
        (lambda *a: order(*a, deal="blocks"), "deal like cards"),
        (lambda m, g, r, e, k: order(m, g, 1, e, k), "stand side by side"),
        (lambda m, g, r, e, k: (torch.arange(m).repeat_interleave(r)[k::g][: -(-m // g)]), "are not shuffled"),
        (lambda m, g, r, e, k: order(m, g, r, e + 1, k), "shuffle with the epoch as seed"),
        (lambda *a: None, "the function returned None"),
    ],
}

test_the_verdict = verdict_test(CASES, sys.modules["convit_edu.book.checks.imagenet"])
