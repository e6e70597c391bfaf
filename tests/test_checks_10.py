"""The checks of chapter 10: the right answer passes, typical wrong ones are told what is wrong."""

import torch
import torch.nn.functional as F
from verdicts import verdict_test

from convit_edu.book.checks import local_without_gpsa as checks

CASES = {}


def mean_target(labels, told, classes, smoothing, both=False, share=True):
    label, word = (F.one_hot(x, classes).double() for x in (labels, told))
    spread = smoothing / classes
    if both:
        word = (1 - smoothing) * word + spread
    return ((1 - smoothing) * label + spread + word) / (2 if share else 1)


CASES["mean_target"] = [
    (mean_target, "Correct."),
    (lambda *a: None, "your answer is None"),
    (lambda y, t, c, s: mean_target(y, t, c, s, share=False), "each row must sum to 1"),
    (lambda y, t, c, s: mean_target(y, t, c, 0), "you left the smoothing out"),
    (lambda y, t, c, s: mean_target(y, t, c, s, both=True), "you smooth both halves"),
    (lambda y, t, c, s: mean_target(t, y, c, s), "you smooth the teacher's half"),
    (lambda y, t, c, s: F.one_hot(y, c).double(), "this is the label alone"),
    (lambda y, t, c, s: F.one_hot(t, c).double(), "this is the teacher alone"),
    (lambda y, t, c, s: torch.full((4, c), 1 / c), "each row is the mean"),
]


def by_seed(f):
    return lambda a, b, c, d: {s: f(a[s], b[s], c[s], d[s]) for s in a}


CASES["interaction"] = [
    (by_seed(lambda a, b, c, d: (b - a) - (d - c)), "Correct."),
    (lambda *runs: None, "the function returned None"),
    (lambda *runs: 1.0, "keep one value a seed"),
    (lambda a, b, c, d: {0: 1.0}, "the seeds are 0, 1 and 2"),
    (by_seed(lambda a, b, c, d: (d - c) - (b - a)), "the sign is turned"),
    (by_seed(lambda a, b, c, d: b - a), "this is DeiT's gain"),
    (by_seed(lambda a, b, c, d: d - c), "this is ConViT's gain"),
    (by_seed(lambda a, b, c, d: b - d), "the gap among the taught alone"),
    (by_seed(lambda a, b, c, d: b - a + d - c), "you add the gains"),
    (by_seed(lambda a, b, c, d: 0.0), "seed by seed"),
]


test_the_verdict = verdict_test(CASES, checks)
