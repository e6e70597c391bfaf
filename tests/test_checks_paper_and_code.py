"""The checks of the page "Paper and code": the right answer passes, typical wrong ones are told what is wrong."""

import copy
import math

import torch
from verdicts import verdict_test

from convit_edu import locality
from convit_edu.book.checks import paper_and_code


def fold(q, k):
    """A folding that divides queries and keys by powers of the head's width."""

    def folded(weight, d):
        queries, keys = weight.chunk(2)
        return torch.cat((queries / d**q, keys / d**k))

    return folded


def decayed(rates, decay):
    left = 1.0
    for rate in rates:
        left *= 1 - rate * decay
    return left


def gate_fault(model):
    return any(layer.gating_param.ndim > 1 for layer in locality.gpsa_layers(model))


def start_fault(model, names=("v", "pos_proj")):
    for layer in locality.gpsa_layers(model):
        fresh = copy.deepcopy(layer)
        fresh.local_init()
        if any(not torch.equal(getattr(fresh, name).weight, getattr(layer, name).weight) for name in names):
            return True
    return False


def read_fault(model, images):
    logits = model(images, trace := {})
    tokens = trace["norm"]
    return tokens.shape[1] == model.pos_embed.shape[1] and torch.equal(model.head(tokens[:, 0]), logits)


def find_fault(model, images):
    if gate_fault(model):
        return "gate decays"
    if start_fault(model):
        return "start erased"
    return "reads patch 0" if read_fault(model, images) else "sound"


def without(*faults):
    """A finder that does not know these faults."""
    return lambda *given: "sound" if (found := find_fault(*given)) in faults else found


def only_v(model, images):
    found = find_fault(model, images)
    return "sound" if found == "start erased" and not start_fault(model, ["v"]) else found


def only_pos_proj(model, images):
    found = find_fault(model, images)
    return "sound" if found == "start erased" and not start_fault(model, ["pos_proj"]) else found


def centres_at_strength_1(model, images):
    """Takes another strength for an erased start."""
    found = find_fault(model, images)
    strong = any((layer.pos_proj.weight[:, 2] != -1).any() for layer in locality.gpsa_layers(model))
    return "start erased" if found == "sound" and strong else found


def unused_class_token(model, images):
    """Takes every model without a class token in its last layer for one that reads patch 0."""
    model(images, trace := {})
    found = find_fault(model, images)
    return "reads patch 0" if found == "sound" and trace["norm"].shape[1] == 9 else found


def repairs(model, images):
    found = find_fault(model, images)
    for layer in locality.gpsa_layers(model):
        layer.local_init()
    return found


CASES = {
    "surplus_heads": [
        (lambda h: h - math.isqrt(h) ** 2, "Correct."),
        (lambda h: h - int(h**0.5) ** 2, "Correct."),
        (lambda h: math.isqrt(h) ** 2, "how many are left"),
        (lambda h: h - math.isqrt(h), "run over k² of them"),
        (lambda h: h - round(h**0.5) ** 2, "cuts off, it does not round: for 8"),
        (lambda h: h - math.ceil(h**0.5) ** 2, "does not round up"),
        (lambda h: math.ceil(h**0.5) ** 2 - h, "fills the square below"),
        (lambda h: 0 if math.isqrt(h) ** 2 == h else h, "four of the eight heads are filled"),
        (lambda h: 1, "two loops of length k"),
        (lambda h: None, "your answer for 3 heads is None"),
    ],
    "fold_scale": [
        (fold(0.5, 0), "Correct."),
        (fold(0, 0.5), "Correct."),
        (fold(0.25, 0.25), "Correct."),
        (fold(0, 0), "nothing has changed"),
        (fold(0.5, 0.5), "both divided by sqrt(d)"),
        (fold(-0.5, 0), "the wrong way round: the scores"),
        (fold(-0.5, -0.5), "and twice"),
        (fold(0.25, 0), "shrunk by d^(1/4) only"),
        (lambda weight, d: torch.cat((weight[:18] / 18**0.5, weight[18:])), "for the width of a head"),
        (lambda weight, d: torch.cat((weight[:9] / 3, weight[9:])), "compare q · k before and after"),
        (lambda weight, d: weight[:18], "your answer has shape (18, 18), expected (36, 18)"),
    ],
    "decayed_lambda": [
        (decayed, "Correct."),
        (lambda rates, decay: math.exp(-decay * sum(rates)), "Correct."),
        (lambda rates, decay: 1 / (1 + math.exp(-decayed(rates, decay))), "this is the gate"),
        (lambda rates, decay: decayed(rates, decay) / (1 + math.exp(-1)), "you began at the gate"),
        (lambda rates, decay: 1 - decay * sum(rates), "each step multiplies lambda"),
        (lambda rates, decay: (1 - decay) ** len(rates), "the learning rate is missing"),
        (lambda rates, decay: decayed(rates, 1), "the decay is missing"),
        (lambda rates, decay: 1 - decayed(rates, decay), "what is left?"),
        (lambda rates, decay: decayed(rates, -decay), "the sign is wrong"),
        (lambda rates, decay: 1 - rates[-1] * decay, "this is one step"),
        (lambda rates, decay: 1.0, "nothing has happened"),
        (lambda rates, decay: 0.3, "for the second case it is"),
        (lambda rates, decay: ..., "your answer is Ellipsis"),
    ],
    "find_fault": [
        (find_fault, "Correct."),
        (lambda model, images: "sound", "it is 'start erased'"),
        (without("reads patch 0"), "how many are there"),
        (without("gate decays"), "looks at the shape of gating_param"),
        (only_v, "pos_proj alone drawn anew 'sound'"),
        (only_pos_proj, "v alone drawn anew 'sound'"),
        (centres_at_strength_1, "four heads at strength 4 'start erased'; it is 'sound'"),
        (unused_class_token, "the mean of its patches 'reads patch 0'; it is 'sound'"),
        (repairs, "left changed; work on a copy"),
        (lambda model, images: None, "the function returned None"),
        (lambda model, images: model.gate, "your code stopped with AttributeError"),
    ],
}


test_verdict = verdict_test(CASES)


def test_the_specimens_are_what_they_are_called():
    """Each fault by its own symptom, apart from the finder above: outputs and shapes."""
    images = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    found = {words: model for _, words, model in paper_and_code._specimens()}
    assert len(found) == 9
    mean = found["an all-GPSA ConViT that reads the mean of its patches"]
    corner = found["an all-GPSA ConViT that reads patch 0"]
    assert all(torch.equal(a, b) for a, b in zip(mean.parameters(), corner.parameters(), strict=True))
    assert not torch.allclose(mean(images), corner(images))
    gates = found["a ConViT with gates of shape (1, H, 1, 1)"]
    assert torch.equal(gates(images), found["a ConViT of nine heads"](images))  # the shape alone differs
