"""Checks for the exercises of chapter 09: ablations."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from ...locality import gpsa_layers
from ...model import ConViT
from .verdict import NotYet, close, diagnose, exercise, given, random_tensor, tensor


@exercise
def check_row_d(model: ConViT) -> None:
    """A model as row d of Table 3 starts: GPSA without its start, every gate frozen half and half."""
    if not isinstance(model, ConViT):
        raise NotYet(f"a model is wanted, not {model if model is None or model is ... else type(model).__name__}.")
    layers = gpsa_layers(model)
    if not layers:
        raise NotYet("there is no GPSA layer in it: this is row e, a DeiT.")
    for layer in layers:
        if torch.equal(layer.pos_proj.weight[:, 2], torch.full((layer.num_heads,), -layer.locality_strength)):
            raise NotYet("the heads still start on their centres: the positional start is on.")
        if torch.equal(layer.v.weight, torch.eye(layer.dim)):
            raise NotYet("W_val still starts as the identity.")
        gate = layer.gate()
        if close(layer.gating_param, torch.full_like(gate, 0.5)):
            raise NotYet("you have set lambda to 0.5; the gate is sigmoid(lambda), and half and half is lambda = 0.")
        if not close(gate, torch.full_like(gate, 0.5)):
            why = {True: "this is position only, as in rows f and g", False: "row d mixes half and half"}
            raise NotYet(f"the gates are at {gate[0].item():.2f}; {why[bool(gate.min() > 0.99)]}.")
        if layer.gating_param.requires_grad:
            raise NotYet("the gates are at one half but would be trained: they are not frozen.")
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad and "gating_param" not in name]
    if frozen:
        raise NotYet(f"row d freezes the gates and nothing else; {frozen[0]} would not be trained.")


HOLDS, CONTRADICTED, OPEN = "holds", "contradicted", "open"  # the words of `claims`
CHANGES = {
    "a - b": {"gate at the start", "gate training"},
    "b - d": {"positional start", "identity values"},
    "d - e": {"GPSA layers", "class token"},
    "f - g": {"positional start", "identity values"},
    "identity values alone - c": {"identity values"},
    "DeiT, late class token - e": {"class token"},
    "d - DeiT, late class token": {"GPSA layers"},
}
FACTORS = sorted(set().union(*CHANGES.values()))
HINTS = {
    "gate at the start": "a trained gate starts at 0.73 and a frozen one stands at 0.5.",
    "gate training": "is the gate trained in one row and not in the other?",
    "positional start": "look where the heads are centred at the start.",
    "identity values": "the switch of the start sets W_val too.",
    "GPSA layers": "look at which attention the first layers have.",
    "class token": "look before which block the class token joins.",
}


@exercise
def check_changes(answer: Mapping[str, Iterable[str]]) -> None:
    """By comparison, the set of what differs between its two rows."""
    for pair, right in CHANGES.items():
        given = answer.get(pair)
        given = {given} if isinstance(given, str) or given is ... else set(given or ())
        if not given - {...}:
            raise NotYet(f"nothing is named for {pair}.")
        if unknown := given - set(FACTORS):
            raise NotYet(f"{sorted(unknown)[0]!r} is not on the list: {', '.join(FACTORS)}.")
        if missing := right - given:
            raise NotYet(f"something is missing for {pair}: {HINTS[min(missing)]}")
        if extra := given - right:
            raise NotYet(f"{min(extra)!r} is the same in both rows of {pair}.")


@exercise
def check_effects(effects: Callable[..., tuple]) -> None:
    """A function (a, b, c, d), accuracies (S,) by seed, -> effect of the gate, of the start, and the interaction."""
    a, b, c, d = accuracies = 50 + 5 * random_tensor(0, 4, 5)
    answer = effects(*accuracies)
    if answer is None or answer is ... or len(answer) != 3:
        raise NotYet("three answers are wanted: gate, start, interaction.")
    names = ("the effect of the gate", "the effect of the start", "the interaction")
    if all(torch.as_tensor(part).ndim == 0 for part in answer):
        raise NotYet("each answer is one number; keep one value a seed, so that an interval can be taken.")
    gate, start, both = (tensor(part, (5,), name) for part, name in zip(answer, names))
    right_gate, right_start, right_both = ((a - b) + (c - d)) / 2, ((a - c) + (b - d)) / 2, (a - b) - (c - d)
    if close(gate, right_start) and close(start, right_gate):
        raise NotYet("gate and start are swapped: a and b differ in the gate, a and c in the start.")
    for name, found, right, with_other, without in (
        (names[0], gate, right_gate, a - b, c - d), (names[1], start, right_start, a - c, b - d),
    ):  # fmt: skip
        diagnose(found, right, {
            f"{name} has the wrong sign: with minus without.": -right,
            f"{name} is the sum of two differences; take their mean.": 2 * right,
            f"{name} is taken only where the other factor is on; average over both.": with_other,
            f"{name} is taken only where the other factor is off; average over both.": without,
        }, f"{name} is off: the mean of two differences that change nothing else.")  # fmt: skip
    diagnose(both, right_both, {
        "the interaction has the wrong sign: the difference with the start minus the one without.": -right_both,
        "the interaction is halved; here it is the plain difference of two differences.": right_both / 2,
        "this is a - d, both together; the interaction is what that is more than the sum of the parts.": a - d,
    }, "the interaction is off: does the gate bring more with the start than without?")  # fmt: skip


@exercise
def check_influence(influence: Callable[[Tensor, Tensor], Tensor]) -> None:
    """A function (content, position), scores (H, N, N), -> how far content moves the single softmax."""
    content, position = random_tensor(0, 2, 4, 4), random_tensor(1, 2, 4, 4)
    answer = torch.as_tensor(given(influence(content, position)), dtype=torch.float64)
    if answer.ndim:
        raise NotYet(f"one number is wanted, the mean over heads and queries; yours has shape {tuple(answer.shape)}.")

    def moved(dim: int = -1, after: Tensor | None = None) -> Tensor:
        after = (content + position).softmax(dim) if after is None else after
        return (after - position.softmax(dim)).abs()

    gate = torch.tensor(1.0).sigmoid()
    gated = (1 - gate) * content.softmax(-1) + gate * position.softmax(-1)
    right = moved().sum(-1).mean() / 2
    mistakes = {
        "the half is missing: attention that moves is counted where it leaves and where it arrives.": 2 * right,
        "you average over keys; sum over them, so that the answer is a share of a row.": moved().mean(),
        "half of the mean over keys; sum over keys, and average over heads and queries.": moved().mean() / 2,
        "you sum over queries or heads; average over them.": moved().sum() / 2,
        "your softmax runs over queries; rows are queries, so it must run over keys.": moved(-2).sum(-2).mean() / 2,
        "this is the gated sum of Eq 7; here it is one softmax over the sum of the scores.":
            moved(after=gated).sum(-1).mean() / 2,
        "you compare with the softmax of the content; compare with that of the position alone.":
            ((content + position).softmax(-1) - content.softmax(-1)).abs().sum(-1).mean() / 2,
        "the signs cancel: take absolute values.": torch.zeros((), dtype=torch.float64),
    }  # fmt: skip
    diagnose(answer, right, mistakes, f"for the test scores it should be {right:.4f}, yours is {answer:.4f}.")


FOREST = {"A": (4.0, 1.5), "B": (2.5, 3.0), "C": (-2.0, 1.2), "D": (3.0, float("nan"))}  # mean and half-width


@exercise
def check_forest(answer: Mapping[str, str]) -> None:
    """A verdict on "the difference is above 0" for A to D of `FOREST`, and on "A - B"."""
    right = {"A": HOLDS, "B": OPEN, "C": CONTRADICTED, "D": OPEN, "A - B": OPEN}
    why = {
        "A": "its interval lies wholly on one side of 0.",
        "B": "its interval contains 0, although its mean does not lie there.",
        "C": "its interval lies wholly below 0: that is more than not knowing.",
        "D": "it has one seed and no interval, however far its point is from 0.",
        "A - B": "that one interval leaves 0 out and the other does not says nothing about the two against each other; "
        "only the paired difference of the two differences would.",
    }
    for name, verdict in right.items():
        given = answer.get(name)
        if given is None or given is ...:
            raise NotYet(f"there is no verdict on {name}.")
        if given not in (HOLDS, CONTRADICTED, OPEN):
            raise NotYet(f"{given!r} is no verdict; use {HOLDS!r}, {CONTRADICTED!r} or {OPEN!r}.")
        if given != verdict:
            raise NotYet(f"look at {name} again: {why[name]}")
