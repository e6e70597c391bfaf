"""The checks of chapter 07: the right answer passes, typical wrong ones are told what is wrong."""

import itertools
import math

import torch
from verdicts import verdict_test

CASES = {}


def gaps(deit, convit, scale=100, sign=1, below=None, errors=None):
    d = sign * (convit - deit)
    return convit - deit, scale * d / (below or (lambda a, b: a))(deit, convit), 100 * d / (100 - (errors or deit))


CASES["three_gaps"] = [
    (gaps, "Correct."),
    (lambda a, b: gaps(b, a), "ConViT's accuracy comes first"),
    (lambda a, b: gaps(a, b, scale=1), "relative gap, for 34.8 against 47.8: in per cent, please"),
    (lambda a, b: gaps(a, b, below=lambda a, b: b), "the paper divides by DeiT's accuracy"),
    (lambda a, b: (b - a, 100 * b / a, 0), "this is the ratio"),
    (lambda a, b: (*gaps(a, b)[:2], gaps(a, b, errors=b)[2]), "these are ConViT's"),
    (lambda a, b: (*gaps(a, b)[:2], gaps(a, b)[2] / 100), "errors, for 34.8 against 47.8: in per cent, please"),
    (lambda a, b: (*gaps(a, b)[:2], -gaps(a, b)[2]), "count the errors that ConViT saves as positive"),
    (lambda a, b: (1.0, 2.0, 3.0), "it is 13, you have 1"),
    (lambda a, b: gaps(a, b)[:2], "you return 2 numbers"),
    (lambda a, b: None, "the function returned None"),
]

CASES["budget"] = [
    (lambda m, f, e, b: (m * e / b, e / f), "Correct."),
    (lambda m, f, e, b: (m * f * e / b, e), "equal epochs, not equal images seen"),
    (lambda m, f, e, b: (m * e, e / f), "a step takes a batch of them"),
    (lambda m, f, e, b: (m / b, e / f), "these are the steps of one epoch"),
    (lambda m, f, e, b: (m * e / b / f, e / f), "does not depend on the fraction"),
    (lambda m, f, e, b: (m * e / b, e), "an epoch on the subset is shorter"),
    (lambda m, f, e, b: (m * e / b, e * f), "the wrong way round"),
    (lambda m, f, e, b: (7, 7), "steps: it is 2500, you have 7"),
    (lambda m, f, e, b: ..., "the function returned Ellipsis"),
]


def difference(c, d, c_all, d_all, t=2.776, root=5**0.5, correction=1, sign=1):
    c, d, c_all, d_all = (torch.tensor(v, dtype=torch.float64) for v in (c, d, c_all, d_all))
    g = (c - d) - sign * (c_all - d_all)
    return g.mean(), t * g.std(correction=correction) / root


def halves(c, d):
    return 2.776 * (torch.tensor(c, dtype=torch.float64) - torch.tensor(d, dtype=torch.float64)).std().item() / 5**0.5


def independent(*lists):
    return 2.776 * (sum(torch.tensor(v, dtype=torch.float64).var().item() for v in lists) / 5) ** 0.5


CASES["gap_difference"] = [
    (difference, "Correct."),
    (lambda *a: difference(*a, t=2.77645), "Correct."),
    (lambda c, d, e, f: difference(e, f, c, d), "few minus all"),
    (lambda *a: difference(*a, sign=-1), "you have added the two gaps"),
    (lambda *a: difference(*a, sign=0), "this is the gap on few images alone"),
    (lambda *a: difference(*a, t=1), "this is the standard error"),
    (lambda *a: difference(*a, t=1.96), "1.96 belongs to many seeds"),
    (lambda *a: difference(*a, root=1), "divide the standard deviation by the root"),
    (lambda *a: difference(*a, correction=0), "by n - 1, not by n"),
    (lambda c, d, e, f: (difference(c, d, e, f)[0], halves(c, d) + halves(e, f)), "you add the half-widths"),
    (lambda c, d, e, f: (difference(c, d, e, f)[0], math.hypot(halves(c, d), halves(e, f))), "pair them too"),
    (lambda *a: (difference(*a)[0], independent(*a)), "all four lists as independent"),
    (lambda *a: (difference(*a)[0], 99.0), "yours is 99.000"),
    (lambda *a: (1.0, 1.0), "the mean is off: it is 6.8, you have 1."),
    (lambda *a: None, "the function returned None"),
]


def plan(arms=("ConViT", "DeiT"), cells=((0.05, 300), (0.05, 1200), (1.0, 300), (1.0, 1200)), seeds=range(5)):
    return [
        dict(arm=arm, fraction=fraction, steps=steps, seed=seed)
        for arm, (fraction, steps), seed in itertools.product(arms, cells, seeds)
    ]


CASES["plan"] = [
    (plan(), "Correct."),
    (iter(plan()), "Correct."),
    ([], "no runs yet"),
    (..., "a list of runs is wanted"),
    ([{"arm": "DeiT", "steps": 3}], "says nothing of its fraction and seed"),
    (plan(arms=("ConViT",)), "the arms should be ConViT and DeiT, yours are ConViT"),
    (plan() + plan(seeds=[0]), "some run is there twice"),
    (plan()[:-1], "only one arm runs 100 % for 1200 steps with seed 4"),
    (plan(cells=((1.0, 300), (1.0, 1200))), "there is one amount of data"),
    (plan(cells=((0.05, 300), (1.0, 300))), "there is one number of steps"),
    (plan(cells=((0.05, 60), (1.0, 1200))), "data and steps vary together"),
    (plan(cells=((0.05, 300), (1.0, 300), (1.0, 1200))), "nothing runs with 5 % of the data for 1200 steps"),
    (plan(seeds=[0, 1]), "fewer than three seeds"),
    (plan(cells=((0.05, 300), (0.05, 1200))) + plan(cells=((1.0, 300), (1.0, 1200)), seeds=range(5, 10)),
     "the cells have different seeds"),
    (plan(cells=((0.05, 300), (0.05, 400), (1.0, 300), (1.0, 400))), "nearly the same"),
    (plan(seeds=range(10)), "60,000 steps, and there are 40,000"),
    ([3], "your code stopped with TypeError"),
]  # fmt: skip


test_the_verdict = verdict_test(CASES)
