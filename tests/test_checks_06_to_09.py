"""The checks of chapters 06 to 09: the right answer passes, typical wrong ones are told what is wrong."""

import contextlib
import itertools
import math

import torch
from verdicts import verdict_test

from convit_edu import create_model
from convit_edu.book.checks.ablations import CHANGES
from convit_edu.locality import gpsa_layers, masked_positions
from convit_edu.train import Recipe

CASES = {}

# --- chapter 06: training


def rate(step, steps, warmup, highest, lowest, first=1, shift=True, end=None):
    if step < warmup:
        return highest * (step + first) / warmup
    progress = (step - warmup) / (steps - warmup) if shift else step / steps
    end = lowest if end is None else end
    return end + (highest - end) / 2 * (1 + math.cos(math.pi * progress))


def subset(labels, per_class, seed, shuffle="once"):
    generator = torch.Generator().manual_seed(0 if shuffle == "unseeded" else seed)
    if shuffle == "global":
        generator = None
    if shuffle == "by size":
        generator.manual_seed(1000 * seed + per_class)
    order = torch.randperm(len(labels), generator=generator)
    return torch.cat([order[labels[order] == c][:per_class] for c in labels.unique()])


def paired(a, b, *all_images, t=2.776, correction=1, root=5**0.5, sign=1):
    """Mean and half-width of a - b, or of that difference minus the one on all images."""
    a, b, *rest = (torch.tensor(values, dtype=torch.float64) for values in (a, b, *all_images))
    d = a - b - sign * (rest[0] - rest[1]) if rest else a - b
    return d.mean(), t * d.std(correction=correction) / root


def independent(*lists):
    return 2.776 * (sum(torch.tensor(v, dtype=torch.float64).var().item() for v in lists) / 5) ** 0.5


FAIR = {"DeiT": [33.0, 34.0], "ConViT": [47.0, 49.0], "late token": [35.0, 33.5], "no start": [36.0, 38.0]}

CASES |= {
    "learning_rate": [
        (rate, "Correct."),
        (lambda *a: rate(*a, first=0), "the first step has rate 0"),
        (lambda *a: rate(*a, first=2), "the warm-up is off: step 0 of 10 should have 0.040"),
        (lambda *a: rate(*a, shift=False), "subtract the warm-up from step and steps"),
        (lambda *a: rate(*a, end=0.0), "falls below the lowest"),
    ],
    "decays": [
        (lambda name, p: p.ndim > 1 and name not in ("cls_token", "pos_embed"), "Correct."),
        (lambda name, p: p.ndim > 1, "cls_token (1, 1, 72) is a token or a position"),
        (lambda name, p: name.endswith("weight"), "norm1.weight (72,) is no matrix"),
        (lambda name, p: p.ndim == 2, "patch_embed.proj.weight (72, 1, 4, 4) is a matrix (or a stack of filters)"),
    ],
    "subset": [
        (subset, "Correct."),
        (lambda labels, n, s: subset(labels, n, s, "global"), "the same seed gives another subset"),
        (lambda labels, n, s: subset(labels, n, s, "unseeded"), "another seed gives the same subset"),
        (lambda labels, n, s: subset(labels, n, s, "by size"), "not nested"),
        (lambda labels, n, s: torch.arange(5 * n), "not balanced"),
        (lambda labels, n, s: torch.zeros(5 * n, dtype=int), "some image is there twice"),
        (lambda labels, n, s: torch.arange(n), "are 20 indices; yours have shape (4,)"),
    ],
    "paired_interval": [
        (paired, "Correct."),
        (lambda a, b: paired(b, a), "b - a is the wrong way round"),
        (lambda a, b: paired(a, b, t=1), "this is the standard error"),
        (lambda a, b: paired(a, b, t=1.96), "1.96 belongs to many seeds"),
        (lambda a, b: paired(a, b, root=1), "divide the standard deviation by the root"),
        (lambda a, b: paired(a, b, correction=0), "by n - 1, not by n"),
        (lambda a, b: (paired(a, b)[0], independent(a, b)), "you treat the arms as independent"),
        (lambda a, b: (paired(a, b)[0], 99.0), "yours is 99.000"),
    ],
    "race": [
        (FAIR, "Correct."),
        ({name: FAIR[name] for name in ("DeiT", "ConViT")}, "there are 2 arms"),
        (FAIR | {"DeiT": [33.0]}, "different numbers of seeds"),
        ({name: values[:1] for name, values in FAIR.items()}, "one seed gives no interval"),
        ({name: [v / 100 for v in values] for name, values in FAIR.items()}, "wanted in per cent"),
        (FAIR | {"no start": FAIR["ConViT"]}, "did both get their own model?"),
    ],
}

# --- chapter 07: sample efficiency


def gaps(deit, convit, scale=100, sign=1, below=None, errors=None):
    d = sign * (convit - deit)
    return convit - deit, scale * d / (below or (lambda a, b: a))(deit, convit), 100 * d / (100 - (errors or deit))


def plan(arms=("ConViT", "DeiT"), cells=((0.05, 300), (0.05, 1200), (1.0, 300), (1.0, 1200)), seeds=range(5)):
    return [
        dict(arm=arm, fraction=fraction, steps=steps, seed=seed)
        for arm, (fraction, steps), seed in itertools.product(arms, cells, seeds)
    ]


CASES |= {
    "three_gaps": [
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
    ],
    "budget": [
        (lambda m, f, e, b: (m * e / b, e / f), "Correct."),
        (lambda m, f, e, b: (m * f * e / b, e), "equal epochs, not equal images seen"),
        (lambda m, f, e, b: (m * e, e / f), "a step takes a batch of them"),
        (lambda m, f, e, b: (m / b, e / f), "these are the steps of one epoch"),
        (lambda m, f, e, b: (m * e / b / f, e / f), "does not depend on the fraction"),
        (lambda m, f, e, b: (m * e / b, e), "an epoch on the subset is shorter"),
        (lambda m, f, e, b: (m * e / b, e * f), "the wrong way round"),
    ],
    "gap_difference": [
        (paired, "Correct."),
        (lambda *a: paired(*a, t=2.77645), "Correct."),
        (lambda c, d, e, f: paired(e, f, c, d), "few minus all"),
        (lambda *a: paired(*a, sign=-1), "you have added the two gaps"),
        (lambda *a: paired(*a, sign=0), "this is the gap on few images alone"),
        (lambda *a: paired(*a, t=1), "this is the standard error"),
        (lambda *a: paired(*a, t=1.96), "1.96 belongs to many seeds"),
        (lambda *a: paired(*a, root=1), "divide the standard deviation by the root"),
        (lambda *a: paired(*a, correction=0), "by n - 1, not by n"),
        (lambda c, d, e, f: (paired(c, d, e, f)[0], paired(c, d)[1] + paired(e, f)[1]), "you add the half-widths"),
        (lambda c, d, e, f: (paired(c, d, e, f)[0], math.hypot(paired(c, d)[1], paired(e, f)[1])), "pair them too"),
        (lambda *a: (paired(*a)[0], independent(*a)), "all four lists as independent"),
        (lambda *a: (paired(*a)[0], 99.0), "yours is 99.000"),
    ],
    "plan": [
        (plan(), "Correct."),
        (iter(plan()), "Correct."),
        ([], "no runs yet"),
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
    ],
}  # fmt: skip

# --- chapter 08: looking inside


def nonlocality(A, grid, power=0.5, norm=2, divide=None):
    rows, columns = grid
    place = torch.tensor([(n // columns, n % columns) for n in range(rows * columns)], dtype=torch.float64)
    delta = place[None] - place[:, None]  # (N, N, 2)
    distances = delta.abs().sum(-1) if norm == 1 else delta.square().sum(-1) ** power
    return (A * distances).sum((1, 2)) / (divide or rows * columns)


def drop(A, token=0, dim=-1):
    keep = [n for n in range(A.shape[-1]) if n != token % A.shape[-1]]
    patches = A[..., keep, :][..., keep]
    return patches / patches.sum(dim, keepdim=True)


def budget(steps, warmup, highest, lowest):
    recipe = Recipe(steps=steps, warmup_steps=warmup, lr=highest, min_lr=lowest)
    return sum(recipe.learning_rate(step) for step in range(steps))


def sigmoid(x):
    return torch.tensor(x, dtype=torch.float64).sigmoid()


def mask(model, images, layers, lam=1000.0, keep=False, start=0):
    found = gpsa_layers(model)[start:][:layers]
    old = [layer.gating_param.clone() for layer in found]
    for layer in found:
        layer.gating_param.fill_(lam)
    logits = model(images)
    for layer, value in zip(found, old, strict=True):
        if not keep:
            layer.gating_param.copy_(value)
    return logits


def without(context):
    def is_shortcut(measure, model, images):
        before = measure(model, images)
        with context(model):
            return torch.equal(measure(model, images), before)

    return is_shortcut


@contextlib.contextmanager
def doubled(*parameters, keep=False):
    for parameter in parameters:
        parameter.data.mul_(2)
    yield
    for parameter in parameters:
        parameter.data.div_(1 if keep else 2)


CASES |= {
    "nonlocality": [
        (nonlocality, "Correct."),
        (lambda A, g: nonlocality(A, g, divide=1), "divide by the number of queries"),
        (lambda A, g: nonlocality(A, g, divide=36), "divide by the queries only"),
        (lambda A, g: nonlocality(A, g, power=1), "the mean of the squared distance"),
        (lambda A, g: nonlocality(A, g, power=1).sqrt(), "the root of each distance"),
        (lambda A, g: nonlocality(A, g, norm=1), "the length of the offset"),
        (lambda A, g: nonlocality(A, g[::-1]), "rows and columns are exchanged"),
        (lambda A, g: nonlocality(torch.full_like(A, 1 / 6), g), "the attention takes no part"),
    ],
    "without_class_token": [
        (drop, "Correct."),
        (lambda A: A[..., 1:, 1:], "the rows no longer sum to 1"),
        (lambda A: drop(A, token=-1), "you dropped the last patch"),
        (lambda A: A[..., :-1, :-1], "and the rows must sum to 1 again"),
        (lambda A: drop(A, dim=-2), "you divide by the sum of a column"),
        (lambda A: drop(A, dim=(-2, -1)) * 4, "one sum for the whole matrix"),
        (lambda A: A[..., 1:, 1:].softmax(-1), "a second softmax"),
        (lambda A: A[..., 1:, 1:] + A[..., 1:, :1] / 4, "shared out the class token's mass equally"),
        (lambda A: drop(A).flip(-1), "not the old ones rescaled"),
        (lambda A: drop(A) * 2, "a row must sum to 1"),
    ],
    "lowest_gate": [
        (lambda *r: sigmoid(1 - budget(*r)), "Correct."),
        (lambda *r: sigmoid(1 - budget(*r) + r[3]), "Correct."),  # the last step more or less
        (lambda *r: budget(*r), "this is the budget itself"),
        (lambda *r: 1 - budget(*r), "this is lambda"),
        (lambda *r: sigmoid(1 + budget(*r)), "you went up"),
        (lambda *r: sigmoid(-budget(*r)), "lambda starts at 1"),
        (lambda *r: sigmoid(1.0) - budget(*r), "subtract inside the sigmoid"),
        (lambda *r: sigmoid(1 - r[0] * r[2]), "not at its highest all the time"),
        (lambda *r: sigmoid(1 - r[2]), "one step is not the training"),
    ],
    "mask_content": [
        (mask, "Correct."),
        (lambda *a: mask(*a, lam=1.0), "nothing is masked"),
        (lambda *a: mask(*a, lam=-1000.0), "you masked the position"),
        (lambda *a: mask(*a, lam=0.0), "lambda = 0 is a gate of one half"),
        (lambda m, x, n: mask(m, x, 3), "all GPSA layers are masked"),
        (lambda m, x, n: mask(m, x, 1), "one layer is masked"),
        (lambda *a: mask(*a, start=1), "you masked the last ones"),
        (lambda *a: mask(*a, lam=2.0), "only there"),
        (lambda *a: mask(*a, keep=True), "blocks.0.attn.gating_param is left changed"),
    ],
    "is_shortcut": [
        (without(masked_positions), "Correct."),
        (without(lambda m: doubled(m.blocks[0].mlp.fc1.weight)), "Correct."),
        (without(lambda m: doubled(m.patch_embed.proj.weight)), "you call the shortcut true"),
        (without(lambda m: doubled(*m.blocks.parameters())), "you call the shortcut true"),
        (without(lambda m: doubled(m.head.weight)), "you call the true measure a shortcut"),
        (without(lambda m: doubled(m.pos_embed, keep=True)), "the model is left changed"),
        (lambda *a: True, "you call the true measure a shortcut"),
    ],
}

# --- chapter 09: ablations


def row_d(gpsa=2, start=False, values=False, logit=0.0, train_gate=False, train_rest=True):
    model = create_model(
        "convit_mini_28", 0, embed_dim=36, depth=3, local_up_to_layer=gpsa,
        positional_init=start, identity_values=values,
    )  # fmt: skip
    for layer in gpsa_layers(model):
        layer.requires_grad_(train_rest)
        layer.gating_param.data.fill_(logit)
        layer.gating_param.requires_grad_(train_gate)
    return model


def effects(a, b, c, d):
    return ((a - b) + (c - d)) / 2, ((a - c) + (b - d)) / 2, (a - b) - (c - d)


def influence(content, position, dim=-1, half=0.5, after=None):
    moved = ((content + position).softmax(dim) if after is None else after) - position.softmax(dim)
    return half * moved.abs().sum(dim).mean()


def gated(content, position):
    return torch.lerp(content.softmax(-1), position.softmax(-1), torch.tensor(1.0).double().sigmoid())


READ = {"A": "holds", "B": "open", "C": "contradicted", "D": "open", "A - B": "open"}

CASES |= {
    "row_d": [
        ({}, "Correct."),
        ({"gpsa": 0}, "this is row e, a DeiT"),
        ({"start": True}, "still start on their centres"),
        ({"values": True}, "W_val still starts as the identity"),
        ({"logit": 1.0}, "the gates are at 0.73; row d mixes half and half"),
        ({"logit": 1000.0}, "the gates are at 1.00; this is position only, as in rows f and g"),
        ({"logit": 0.5}, "half and half is lambda = 0"),
        ({"train_gate": True}, "they are not frozen"),
        ({"train_rest": False}, "row d freezes the gates and nothing else; blocks.0.attn.proj.weight"),
    ],
    "changes": [
        ({}, "Correct."),
        ({"d - e": {"GPSA layers"}}, "missing for d - e: look before which block the class token joins"),
        ({"a - b": {"gate training"}}, "a trained gate starts at 0.73"),
        ({"b - d": {"positional start"}}, "missing for b - d: the switch of the start sets W_val too"),
        ({"f - g": {"positional start", "identity values", "gate training"}}, "'gate training' is the same in both"),
        ({"d - e": set()}, "nothing is named for d - e"),
        ({"d - e": {...}}, "nothing is named for d - e"),
        ({"d - e": "the weather"}, "'the weather' is not on the list"),
    ],
    "effects": [
        (effects, "Correct."),
        (lambda a, b, c, d: effects(a, c, b, d), "gate and start are swapped"),
        (lambda a, b, c, d: [x.mean() for x in effects(a, b, c, d)], "keep one value a seed"),
        (lambda a, b, c, d: (a - b, *effects(a, b, c, d)[1:]), "the effect of the gate is taken only where the other"),
        (lambda a, b, c, d: (c - d, *effects(a, b, c, d)[1:]), "only where the other factor is off"),
        (lambda a, b, c, d: (a - b + c - d, *effects(a, b, c, d)[1:]), "is the sum of two differences"),
        (lambda a, b, c, d: [-x for x in effects(a, b, c, d)], "the effect of the gate has the wrong sign"),
        (lambda a, b, c, d: (*effects(a, b, c, d)[:2], a - d), "this is a - d, both together"),
        (lambda a, b, c, d: (*effects(a, b, c, d)[:2], (a - b - c + d) / 2), "the interaction is halved"),
    ],
    "influence": [
        (influence, "Correct."),
        (lambda c, p: influence(c, p, half=1), "the half is missing"),
        (lambda c, p: influence(c, p, dim=-2), "your softmax runs over queries"),
        (lambda c, p: ((c + p).softmax(-1) - p.softmax(-1)).abs().mean(), "you average over keys"),
        (lambda c, p: ((c + p).softmax(-1) - p.softmax(-1)).sum(-1).mean() / 2, "take absolute values"),
        (lambda c, p: influence(c, p, after=gated(c, p)), "this is the gated sum of Eq 7"),
        (lambda c, p: influence(p, c), "compare with that of the position alone"),
        (lambda c, p: ((c + p).softmax(-1) - p.softmax(-1)).abs().sum(-1), "one number is wanted"),
    ],
    "forest": [
        ({}, "Correct."),
        ({"B": "holds"}, "look at B again: its interval contains 0"),
        ({"C": "open"}, "look at C again: its interval lies wholly below 0"),
        ({"D": "holds"}, "look at D again: it has one seed"),
        ({"A - B": "holds"}, "only the paired difference of the two differences"),
        ({"A": "true"}, "'true' is no verdict"),
        ({"A": ...}, "there is no verdict on A"),
    ],
}


test_the_verdict = verdict_test(
    CASES,
    row_d=lambda answer: row_d(**answer),
    changes=lambda answer: CHANGES | answer,
    forest=lambda answer: READ | answer,
)
