"""The checks of chapter 09: the right answer passes, typical wrong ones are told what is wrong."""

import torch
from verdicts import verdict_test

from convit_edu import create_model
from convit_edu.book.checks.ablations import CHANGES
from convit_edu.locality import gpsa_layers

CASES = {}


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


CASES["row_d"] = [
    ({}, "Correct."),
    ({"gpsa": 0}, "this is row e, a DeiT"),
    ({"start": True}, "still start on their centres"),
    ({"values": True}, "W_val still starts as the identity"),
    ({"logit": 1.0}, "the gates are at 0.73; row d mixes half and half"),
    ({"logit": 1000.0}, "the gates are at 1.00; this is position only, as in rows f and g"),
    ({"logit": 0.5}, "half and half is lambda = 0"),
    ({"train_gate": True}, "they are not frozen"),
    ({"train_rest": False}, "row d freezes the gates and nothing else; blocks.0.attn.proj.weight"),
    (None, "a model is wanted, not None"),
]

CASES["changes"] = [
    ({}, "Correct."),
    ({"d - e": {"GPSA layers"}}, "missing for d - e: look before which block the class token joins"),
    ({"a - b": {"gate training"}}, "a trained gate starts at 0.73"),
    ({"b - d": {"positional start"}}, "missing for b - d: the switch of the start sets W_val too"),
    ({"f - g": {"positional start", "identity values", "gate training"}}, "'gate training' is the same in both"),
    ({"d - e": set()}, "nothing is named for d - e"),
    ({"d - e": {...}}, "nothing is named for d - e"),
    ({"d - e": "the weather"}, "'the weather' is not on the list"),
]


def effects(a, b, c, d):
    return ((a - b) + (c - d)) / 2, ((a - c) + (b - d)) / 2, (a - b) - (c - d)


CASES["effects"] = [
    (effects, "Correct."),
    (lambda a, b, c, d: effects(a, c, b, d), "gate and start are swapped"),
    (lambda a, b, c, d: [x.mean() for x in effects(a, b, c, d)], "keep one value a seed"),
    (lambda a, b, c, d: (a - b, *effects(a, b, c, d)[1:]), "the effect of the gate is taken only where the other"),
    (lambda a, b, c, d: (c - d, *effects(a, b, c, d)[1:]), "only where the other factor is off"),
    (lambda a, b, c, d: (a - b + c - d, *effects(a, b, c, d)[1:]), "is the sum of two differences"),
    (lambda a, b, c, d: [-x for x in effects(a, b, c, d)], "the effect of the gate has the wrong sign"),
    (lambda a, b, c, d: (*effects(a, b, c, d)[:2], a - d), "this is a - d, both together"),
    (lambda a, b, c, d: (*effects(a, b, c, d)[:2], (a - b - c + d) / 2), "the interaction is halved"),
    (lambda a, b, c, d: None, "three answers are wanted"),
]


def influence(content, position, dim=-1, half=0.5):
    moved = (content + position).softmax(dim) - position.softmax(dim)
    return half * moved.abs().sum(dim).mean()


def gated_influence(content, position):
    gate = torch.tensor(1.0).sigmoid()
    mixed = (1 - gate) * content.softmax(-1) + gate * position.softmax(-1)
    return (mixed - position.softmax(-1)).abs().sum(-1).mean() / 2


CASES["influence"] = [
    (influence, "Correct."),
    (lambda c, p: influence(c, p, half=1), "the half is missing"),
    (lambda c, p: influence(c, p, dim=-2), "your softmax runs over queries"),
    (lambda c, p: ((c + p).softmax(-1) - p.softmax(-1)).abs().mean(), "you average over keys"),
    (lambda c, p: ((c + p).softmax(-1) - p.softmax(-1)).sum(-1).mean() / 2, "take absolute values"),
    (gated_influence, "this is the gated sum of Eq 7"),
    (lambda c, p: influence(p, c), "compare with that of the position alone"),
    (lambda c, p: ((c + p).softmax(-1) - p.softmax(-1)).abs().sum(-1), "one number is wanted"),
    (lambda c, p: torch.tensor(0.123), "yours is 0.123"),
    (lambda c, p: None, "the function returned None"),
]


READ = {"A": "holds", "B": "open", "C": "contradicted", "D": "open", "A - B": "open"}

CASES["forest"] = [
    ({}, "Correct."),
    ({"B": "holds"}, "look at B again: its interval contains 0"),
    ({"C": "open"}, "look at C again: its interval lies wholly below 0"),
    ({"D": "holds"}, "look at D again: it has one seed"),
    ({"A - B": "holds"}, "only the paired difference of the two differences"),
    ({"A": "true"}, "'true' is no verdict"),
    ({"A": ...}, "there is no verdict on A"),
]


test_the_verdict = verdict_test(
    CASES,
    row_d=lambda answer: None if answer is None else row_d(**answer),
    changes=lambda answer: CHANGES | answer,
    forest=lambda answer: READ | answer,
)
