"""The checks of chapter 06: the right answer passes, typical wrong ones are told what is wrong."""

import math

import torch
from verdicts import verdict_test

CASES = {}


def rate(step, steps, warmup, highest, lowest, first=1, shift=True, end=None):
    if step < warmup:
        return highest * (step + first) / warmup
    progress = (step - warmup) / (steps - warmup) if shift else step / steps
    end = lowest if end is None else end
    return end + (highest - end) / 2 * (1 + math.cos(math.pi * progress))


CASES["learning_rate"] = [
    (rate, "Correct."),
    (lambda *a: rate(*a, first=0), "the first step has rate 0"),
    (lambda *a: rate(*a, first=2), "the warm-up is off: step 0 of 10 should have 0.040"),
    (lambda *a: rate(*a, shift=False), "subtract the warm-up from step and steps"),
    (lambda *a: rate(*a, end=0.0), "falls below the lowest"),
    (lambda *a: None, "returns nothing"),
]

CASES["decays"] = [
    (lambda name, p: p.ndim > 1 and name not in ("cls_token", "pos_embed"), "Correct."),
    (lambda name, p: p.ndim > 1, "cls_token (1, 1, 72) is a token or a position"),
    (lambda name, p: name.endswith("weight"), "norm1.weight (72,) is no matrix"),
    (lambda name, p: p.ndim == 2, "patch_embed.proj.weight (72, 1, 4, 4) is a matrix (or a stack of filters)"),
    (lambda name, p: None, "the function returned None"),
]


def subset(labels, per_class, seed, shuffle="once"):
    generator = torch.Generator().manual_seed(0 if shuffle == "unseeded" else seed)
    if shuffle == "global":
        generator = None
    if shuffle == "by size":
        generator.manual_seed(1000 * seed + per_class)
    order = torch.randperm(len(labels), generator=generator)
    return torch.cat([order[labels[order] == c][:per_class] for c in labels.unique()])


CASES["subset"] = [
    (subset, "Correct."),
    (lambda labels, n, s: subset(labels, n, s, "global"), "the same seed gives another subset"),
    (lambda labels, n, s: subset(labels, n, s, "unseeded"), "another seed gives the same subset"),
    (lambda labels, n, s: subset(labels, n, s, "by size"), "not nested"),
    (lambda labels, n, s: torch.arange(5 * n), "not balanced"),
    (lambda labels, n, s: torch.zeros(5 * n, dtype=int), "some image is there twice"),
    (lambda labels, n, s: torch.arange(n), "are 20 indices; yours have shape (4,)"),
    (lambda labels, n, s: None, "the function returned None"),
]


def paired(a, b, t=2.776, correction=1, root=5**0.5):
    d = torch.tensor(a, dtype=torch.float64) - torch.tensor(b, dtype=torch.float64)
    return d.mean(), t * d.std(correction=correction) / root


def independent(a, b):
    a, b = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    return (a - b).mean(), 2.776 * ((a.var() + b.var()) / 5).sqrt()


CASES["paired_interval"] = [
    (paired, "Correct."),
    (lambda a, b: paired(b, a), "b - a is the wrong way round"),
    (lambda a, b: paired(a, b, t=1), "this is the standard error"),
    (lambda a, b: paired(a, b, t=1.96), "1.96 belongs to many seeds"),
    (lambda a, b: paired(a, b, root=1), "divide the standard deviation by the root"),
    (lambda a, b: paired(a, b, correction=0), "by n - 1, not by n"),
    (independent, "you treat the arms as independent"),
    (lambda a, b: (paired(a, b)[0], 99.0), "yours is 99.000"),
    (lambda a, b: None, "the function returned None"),
]


FAIR = {"DeiT": [33.0, 34.0], "ConViT": [47.0, 49.0], "late token": [35.0, 33.5], "no start": [36.0, 38.0]}

CASES["race"] = [
    (FAIR, "Correct."),
    ({name: FAIR[name] for name in ("DeiT", "ConViT")}, "there are 2 arms"),
    (FAIR | {"DeiT": [33.0]}, "different numbers of seeds"),
    ({name: values[:1] for name, values in FAIR.items()}, "one seed gives no interval"),
    ({name: [v / 100 for v in values] for name, values in FAIR.items()}, "wanted in per cent"),
    (FAIR | {"no start": FAIR["ConViT"]}, "did both get their own model?"),
]


test_the_verdict = verdict_test(CASES)
