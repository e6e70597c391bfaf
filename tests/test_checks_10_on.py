"""The checks of chapters 10 on and of the other pages: the right answer passes, wrong ones are told what is wrong."""

import copy
import math
from math import exp

import torch
import torch.nn.functional as F
from verdicts import verdict_test

from convit_edu import locality
from convit_edu.beyond.cost import multiply_adds
from convit_edu.book.checks import paper_and_code
from convit_edu.book.checks.fast_gpsa import ENCODINGS
from convit_edu.lab.intervals import student_t
from convit_edu.positions import kernel_centres

CASES = {}

# --- chapter 10: locality without GPSA


def mean_target(labels, told, classes, smoothing, both=False, share=True):
    label, word = (F.one_hot(x, classes).double() for x in (labels, told))
    spread = smoothing / classes
    if both:
        word = (1 - smoothing) * word + spread
    return ((1 - smoothing) * label + spread + word) / (2 if share else 1)


def by_seed(f):
    return lambda a, b, c, d: {s: f(a[s], b[s], c[s], d[s]) for s in a}


CASES |= {
    "mean_target": [
        (mean_target, "Correct."),
        (lambda y, t, c, s: mean_target(y, t, c, s, share=False), "each row must sum to 1"),
        (lambda y, t, c, s: mean_target(y, t, c, 0), "you left the smoothing out"),
        (lambda y, t, c, s: mean_target(y, t, c, s, both=True), "you smooth both halves"),
        (lambda y, t, c, s: mean_target(t, y, c, s), "you smooth the teacher's half"),
        (lambda y, t, c, s: F.one_hot(y, c).double(), "this is the label alone"),
        (lambda y, t, c, s: F.one_hot(t, c).double(), "this is the teacher alone"),
    ],
    "interaction": [
        (by_seed(lambda a, b, c, d: (b - a) - (d - c)), "Correct."),
        (lambda *runs: 1.0, "keep one value a seed"),
        (lambda a, b, c, d: {0: 1.0}, "the seeds are 0, 1 and 2"),
        (by_seed(lambda a, b, c, d: (d - c) - (b - a)), "the sign is turned"),
        (by_seed(lambda a, b, c, d: b - a), "this is DeiT's gain"),
        (by_seed(lambda a, b, c, d: d - c), "this is ConViT's gain"),
        (by_seed(lambda a, b, c, d: b - d), "the gap among the taught alone"),
        (by_seed(lambda a, b, c, d: b - a + d - c), "you add the gains"),
    ],
}

# --- chapter 11: from a CNN to a ConViT


def tap(weight, head, swap=False, mirror=False, transpose=False):
    x, y = kernel_centres(9)[head].long()
    x, y = (y, x) if swap else (x, y)
    found = weight[:, :, 1 - y, 1 - x] if mirror else weight[:, :, y + 1, x + 1]
    return found.T if transpose else found


def matrices(taps):
    D = taps.shape[-1]
    return taps.permute(1, 0, 2).reshape(D, 9 * D), torch.eye(D).double().repeat(9, 1)


def ranks(taps):
    return torch.linalg.matrix_rank(taps)


def line(strength, power=2):
    return sum(exp(-strength * abs(k) ** power) for k in range(-40, 41))


CASES |= {
    "tap_of_head": [
        (tap, "Correct."),
        (lambda w, h: tap(w, h, swap=True), "rows and columns are exchanged: a weight is"),
        (lambda w, h: tap(w, h, mirror=True), "the filter is mirrored: PyTorch"),
        (lambda w, h: tap(w, h, swap=True, mirror=True), "rows and columns are exchanged, and the filter is mirrored"),
        (lambda w, h: tap(w, h, transpose=True), "the matrix is transposed"),
        (lambda w, h: tap(w, h, swap=True, transpose=True), "transposed, and rows and columns"),
    ],
    "factors": [
        (matrices, "Correct."),
        (lambda t: (torch.eye(4).double().repeat(1, 9), t.reshape(36, 4)), "Correct."),  # the tap in the values
        (lambda t: matrices(t)[::-1], "the shapes are exchanged"),
        (lambda t: matrices(t.transpose(1, 2)), "the matrix of every head is transposed"),
        (lambda t: matrices(t.flip(0)), "opposite order"),
        (lambda t: matrices(t / 9), "added, not averaged"),
        (lambda t: (matrices(t)[0], t.reshape(36, 4)), "the squares of the taps"),
        (lambda t: (torch.eye(4).double().repeat(1, 9), matrices(t)[1]), "the products are the identity"),
        (lambda t: (t.permute(1, 2, 0).reshape(4, 36), torch.eye(4).double().repeat_interleave(9, 0)), "interleaved"),
    ],
    "least_width": [
        (lambda t: int(ranks(t).max()), "Correct."),
        (lambda t: 1, "is it enough for every tap?"),
        (lambda t: t.shape[-1], "These taps have low rank"),
        (lambda t: 6 if ranks(t).min() == 6 else int(ranks(t).sum()), "the tap with the highest rank decides"),
        (lambda t: 9 * int(ranks(t).max()), "not that of all nine together"),
        (lambda t: 5, "the highest rank of these taps is 6, and you say 5"),
    ],
    "leak": [
        (lambda s: 1 - line(s) ** -2, "Correct."),
        (lambda s: line(s) ** -2, "this is the share that stays"),
        (lambda s: 1 - 1 / line(s), "this is one row of patches alone"),
        (lambda s: 4 * exp(-s), "does not divide by the sum"),
        (lambda s: line(s) ** 2 - 1, "divide by the sum of all"),
        (lambda s: 1 - line(s, 1) ** -2, "the distance is squared"),
        (lambda s: 1 - 1 / (1 + 4 * exp(-s) + 4 * exp(-2 * s)), "the eight nearest are not all"),
    ],
    "relax_steps": [
        (lambda c, m, a, b: (a * multiply_adds(c) + b * multiply_adds(m)) / multiply_adds(m), "Correct."),
        (lambda c, m, a, b: a + b, "this counts steps"),
        (lambda c, m, a, b: a + b * multiply_adds(m) / multiply_adds(c), "these are steps of a CNN"),
        (lambda c, m, a, b: a * multiply_adds(c) / multiply_adds(m), "this is the CNN's part alone"),
        (lambda c, m, a, b: (a * multiply_adds(m) + b * multiply_adds(c)) / multiply_adds(m), "the CNN comes first"),
        (lambda c, m, a, b: 5, "steps, not 5"),
    ],
}

# --- chapter 12: the positional softmax as an outer product


def factors(weights, grid, dim=-1, sign=1, order=(1, 0), shares=(1.0, 1.0)):
    """The right answer, and by its options wrong ones."""
    result = []
    for axis, (w, share) in enumerate(zip(order, shares)):
        index = torch.arange(grid[axis])
        delta = sign * (index[None, :] - index[:, None])
        result.append((weights[w] * delta + share * weights[2] * delta**2).softmax(dim))
    return tuple(result)


def by(**options):
    return lambda weights, grid: factors(weights, grid, **options)


def apply(rows, columns, values, read=None):
    """The right answer; `read` = (G_w, G_h) reads the values in the wrong order."""
    G_h, G_w = read or (len(rows), len(columns))
    mixed = torch.einsum("ik,kld->ild", rows if not read else columns, values.reshape(G_h, G_w, -1))
    return torch.einsum("jl,ild->ijd", columns if not read else rows, mixed).reshape(values.shape)


RIGHT = {name: truth for name, (truth, _) in ENCODINGS.items()}


def is_separable(attention, grid, tolerance=1e-9):
    G_h, G_w = grid
    pairs = attention.reshape(G_h, G_w, G_h, G_w).transpose(1, 2).reshape(G_h**2, G_w**2)
    singular = torch.linalg.svdvals(pairs)
    return bool(singular[1] < tolerance * singular[0])


def each_map_is_a_product(attention, grid):
    return all(torch.linalg.matrix_rank(row.reshape(grid)) == 1 for row in attention)


CASES |= {
    "axis_factors": [
        (factors, "Correct."),
        (by(dim=-2), "runs over queries"),
        (by(order=(0, 1)), "x and y are swapped"),
        (by(sign=-1), "query minus key"),
        (by(shares=(0, 0)), "both factors forget their squares"),
        (by(shares=(0.5, 0.5)), "is not shared out"),
        (by(shares=(0, 1)), "the factor of the rows forgets"),
        (by(shares=(1, 0)), "the factor of the columns forgets"),
        (lambda w, grid: factors(w, grid)[::-1], "rows comes first"),
        (lambda w, grid: factors(w, grid)[0], "return two matrices"),
    ],
    "apply": [
        (apply, "Correct."),
        (lambda r, c, v: apply(r, c, v, read=(6, 4)), "rows and columns are swapped"),
        (lambda r, c, v: apply(r.T, c.T, v), "do not transpose the two"),
        (lambda r, c, v: apply(r.T, c, v), "do not transpose the rows' factor"),
        (lambda r, c, v: apply(r, c.T, v), "do not transpose the columns' factor"),
        (lambda r, c, v: apply(r, torch.eye(6).double(), v), "only the rows are mixed"),
        (lambda r, c, v: apply(torch.eye(4).double(), c, v), "only the columns are mixed"),
        (lambda r, c, v: torch.kron(r, c) @ v, "has 576 numbers for N = 24: N x N again"),
    ],
    "which_factorise": [
        (RIGHT, "Correct."),
        ({}, "'quadratic' has no answer"),
        *((RIGHT | {name: not RIGHT[name]}, why) for name, (_, why) in ENCODINGS.items()),
        *((RIGHT | {name: not truth}, f"'{name}' {'does' if truth else 'does not'} factorise: ")
          for name, truth in RIGHT.items()),
    ],
    "is_separable": [
        (is_separable, "Correct."),
        (lambda attention, grid: torch.linalg.matrix_rank(attention) == 1, "a GPSA head with learned weights is"),
        (lambda attention, grid: is_separable(attention, grid) and not torch.equal(attention, attention.T),
         "its rank as an N x N matrix says nothing"),
        (lambda attention, grid: is_separable(attention, grid) or torch.linalg.matrix_rank(attention) == 1,
         "has rank one, but that is another question"),
        (lambda attention, grid: is_separable(attention, grid) or torch.allclose(attention, attention.T),
         "is symmetric, no product"),
        (lambda attention, grid: is_separable(attention, grid, tolerance=0.05), "only close to it"),
        (each_map_is_a_product, "must be the same for all queries of a row"),
        (lambda attention, grid: is_separable(attention, grid[::-1]), "mind which axis is which"),
    ],
}  # fmt: skip

# --- chapter 13: the real recipe


def cost(images, epochs, rate, gpus, watts):
    hours = images * epochs / (rate * gpus) / 3600
    return hours, hours * gpus * watts / 1000


def order(images, groups, repeats, epoch, group, copy="interleave", deal="cards", cut=True):
    shuffled = torch.randperm(images, generator=torch.Generator().manual_seed(epoch))
    copies = shuffled.repeat(repeats) if copy == "tile" else shuffled.repeat_interleave(repeats)
    mine = copies[group::groups] if deal == "cards" else copies[group * (len(copies) // groups) :]
    return mine[: -(-images // groups)].tolist() if cut else mine.tolist()


CASES |= {
    "cost": [
        (cost, "Correct."),
        (lambda *a: (cost(*a)[0] * 3600, 0), "these are seconds"),
        (lambda *a: (cost(*a)[0] * 4, 0), "these are GPU-hours"),
        (lambda *a: (cost(*a)[0] / 10, 0), "this is one epoch"),
        (lambda *a: (cost(*a)[0], 1000), "these are watt-hours"),
        (lambda *a: (cost(*a)[0], 0.25), "all GPUs draw power"),
        (lambda *a: (cost(*a)[0], 3.6), "these are megajoules"),
        (lambda *a: (cost(*a)[0], 5), "energy in kWh: it is 1, you have 5"),
    ],
    "group_order": [
        (order, "Correct."),
        (lambda *a: order(*a, cut=False), "too long: a group takes 5 of 10 images"),
        (lambda *a: order(*a, copy="tile"), "stand side by side"),
        (lambda *a: order(*a, deal="blocks"), "deal like cards"),
        (lambda m, g, r, e, k: order(m, g, 1, e, k), "stand side by side"),
        (lambda m, g, r, e, k: (torch.arange(m).repeat_interleave(r)[k::g][: -(-m // g)]), "are not shuffled"),
        (lambda m, g, r, e, k: order(m, g, r, e + 1, k), "shuffle with the epoch as seed"),
    ],
}

# --- the page "Paper and code"


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


def looking_at(name):
    """A finder that looks for an erased start in one of its two parts alone."""

    def finder(model, images):
        found = find_fault(model, images)
        return "sound" if found == "start erased" and not start_fault(model, [name]) else found

    return finder


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


CASES |= {
    "surplus_heads": [
        (lambda h: h - math.isqrt(h) ** 2, "Correct."),
        (lambda h: math.isqrt(h) ** 2, "how many are left"),
        (lambda h: h - math.isqrt(h), "run over k² of them"),
        (lambda h: h - round(h**0.5) ** 2, "cuts off, it does not round: for 8"),
        (lambda h: h - math.ceil(h**0.5) ** 2, "does not round up"),
        (lambda h: math.ceil(h**0.5) ** 2 - h, "fills the square below"),
        (lambda h: 0 if math.isqrt(h) ** 2 == h else h, "four of the eight heads are filled"),
    ],
    "fold_scale": [
        (fold(0.5, 0), "Correct."),
        (fold(0.25, 0.25), "Correct."),
        (fold(0, 0), "nothing has changed"),
        (fold(0.5, 0.5), "both divided by sqrt(d)"),
        (fold(-0.5, 0), "the wrong way round: the scores"),
        (fold(-0.5, -0.5), "and twice"),
        (fold(0.25, 0), "shrunk by d^(1/4) only"),
        (lambda weight, d: torch.cat((weight[:18] / 18**0.5, weight[18:])), "for the width of a head"),
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
    ],
    "find_fault": [
        (find_fault, "Correct."),
        (lambda model, images: "sound", "it is 'start erased'"),
        (without("reads patch 0"), "how many are there"),
        (without("gate decays"), "looks at the shape of gating_param"),
        (looking_at("v"), "pos_proj alone drawn anew 'sound'"),
        (looking_at("pos_proj"), "v alone drawn anew 'sound'"),
        (centres_at_strength_1, "four heads at strength 4 'start erased'; it is 'sound'"),
        (unused_class_token, "the mean of its patches 'reads patch 0'; it is 'sound'"),
        (repairs, "left changed; work on a copy"),
    ],
}

# --- the report card


def corrected(mean, half, n, m):
    wide = half * student_t(n - 1, 1 - 0.05 / m) / student_t(n - 1)
    return mean - wide, mean + wide


def around(half):
    return lambda mean, old, n, m: (mean - half(old, n, m), mean + half(old, n, m))


def needed(half, n, wanted):
    spread = half / student_t(n - 1) * math.sqrt(n)
    seeds = 2
    while student_t(seeds - 1) * spread / math.sqrt(seeds) > wanted:
        seeds += 1
    return seeds


CASES |= {
    "false_holds": [
        (lambda one, two: 0.025 * one + 0.05 * two, "Correct."),
        (lambda one, two: 0.05 * (one + two), "that is half of them"),
        (lambda one, two: 0.025 * (one + two), "holds on either side of 0"),
        (lambda one, two: 1 - 0.95 ** (one + two), "the chance of at least one"),
    ],
    "corrected": [
        (corrected, "Correct."),
        (around(lambda half, n, m: half * m), "does not grow with the number of comparisons itself"),
        (around(lambda half, n, m: half), "nothing has changed"),
        (around(lambda half, n, m: half * student_t(n - 1, 1 - 0.05 / m)), "divide by the old quantile"),
        (around(lambda half, n, m: half * student_t(n, 1 - 0.05 / m) / student_t(n)), "n - 1 degrees"),
        (lambda mean, half, n, m: (mean, mean + half), "not centred on the mean"),
    ],
    "seeds_needed": [
        (needed, "Correct."),
        (lambda half, n, wanted: math.ceil(n * half / wanted), "with the root of the number"),
        (lambda half, n, wanted: math.ceil(n * (half / wanted) ** 2), "the quantile shrinks too"),
        (lambda half, n, wanted: needed(half, n, wanted) + 1, "one fewer would do"),
        (lambda half, n, wanted: needed(half, n, wanted) - 1, "one more is needed"),
    ],
}


test_the_verdict = verdict_test(CASES)


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
