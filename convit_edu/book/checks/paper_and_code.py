"""Checks for the exercises of the page "Paper and code"."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...attention import GPSA
from ...locality import gpsa_layers
from ...model import ConViT
from .verdict import NotYet, diagnose, exercise, random_tensor, tensor

FAULTS = ("sound", "start erased", "reads patch 0", "gate decays")


@exercise
def check_surplus_heads(surplus: Callable[[int], int]) -> None:
    """A function (num_heads) -> how many heads the released code's local_init leaves with random positions."""
    heads = torch.tensor([3, 4, 7, 8, 9, 12, 14, 16, 24], dtype=torch.float64)
    answer = torch.stack([tensor(surplus(int(h)), (), f"your answer for {int(h):d} heads") for h in heads])
    root = heads.sqrt()
    mistakes = {
        "this is the number of heads that are filled; the question is how many are left.": root.floor() ** 2,
        "k heads are not enough: the two loops run over k² of them.": heads - root.floor(),
        "int() cuts off, it does not round: for 8 heads k is 2.": heads - root.round() ** 2,
        "int() cuts off, it does not round up: for 8 heads k is 2.": heads - root.ceil() ** 2,
        "you count what is missing to the next square; the code fills the square below.": root.ceil() ** 2 - heads,
        "numbers like 8 are not all or nothing: four of the eight heads are filled.":
            torch.where(root == root.floor(), 0.0, heads),
    }  # fmt: skip
    right = heads - root.floor() ** 2
    diagnose(answer, right, mistakes, "two loops of length k = int(num_heads ** 0.5) fill k² heads.")


@exercise
def check_fold_scale(fold: Callable[[Tensor, int], Tensor]) -> None:
    """A function (W_qk (2D, D), d) -> weights (2D, D) whose q · k are what the old ones gave over sqrt(d)."""
    H, d = 2, 9
    D = H * d
    weight, x = random_tensor(0, 2 * D, D), random_tensor(1, 5, D)
    answer = tensor(fold(weight.clone(), d), (2 * D, D))

    def scores(matrix: Tensor) -> Tensor:  # (H, N, N), not divided by anything
        q, k = (x @ matrix.T).chunk(2, dim=-1)
        q, k = (part.reshape(5, H, d).transpose(0, 1) for part in (q, k))
        return q @ k.transpose(1, 2)

    plain, root = scores(weight), math.sqrt(d)
    mistakes = {
        "nothing has changed: the scores are still sqrt(d) too large.": plain,
        "queries and keys are both divided by sqrt(d), so the scores by d; share the factor out.": plain / d,
        "the wrong way round: the scores have grown by sqrt(d), and should shrink.": plain * root,
        "the wrong way round, and twice: the scores have grown by d, and should shrink by sqrt(d).": plain * d,
        "the scores have shrunk by d^(1/4) only: one half takes sqrt(d), or both take d^(1/4).": plain / root**0.5,
        "you took the width of the token for the width of a head.": plain / math.sqrt(D),
    }
    diagnose(scores(answer), plain / root, mistakes, "compare q · k before and after, for one query and one key.")


@exercise
def check_decayed_lambda(decayed: Callable[[Sequence[float], float], float]) -> None:
    """A function (rates, decay) -> lambda at the end, from 1, if AdamW's decay acts on it and nothing else does."""
    cases = [([2e-3 * (step + 1) / 400 for step in range(400)], 0.5), ([1e-2] * 300, 0.2), ([5e-3] * 1000, 0.05)]
    answer = torch.stack([tensor(decayed(list(rates), decay), ()) for rates, decay in cases])

    def each(rule: Callable[[Tensor, float], Tensor]) -> Tensor:
        return torch.stack([rule(torch.tensor(rates, dtype=torch.float64), decay) for rates, decay in cases])

    right = each(lambda rates, decay: (1 - rates * decay).prod())
    mistakes = {
        "this is the gate; lambda was asked for.": right.sigmoid(),
        "the start is lambda = 1, a gate of 0.73; you began at the gate.": right * torch.ones(()).double().sigmoid(),
        "each step multiplies lambda; you subtract the same amount every time.":
            each(lambda rates, decay: 1 - decay * rates.sum()),
        "the learning rate is missing: AdamW takes lr times decay of the weight.":
            each(lambda rates, decay: torch.tensor((1 - decay) ** len(rates), dtype=torch.float64)),
        "the decay is missing: a step takes lr times decay, not lr.": each(lambda rates, decay: (1 - rates).prod()),
        "this is how much lambda has lost; what is left?": 1 - right,
        "the sign is wrong: decay makes lambda smaller.": each(lambda rates, decay: (1 + rates * decay).prod()),
        "this is one step; the decay acts in every one.": each(lambda rates, decay: 1 - rates[-1] * decay),
        "nothing has happened; AdamW multiplies by 1 - lr times decay in every step.": torch.ones(3).double(),
    }  # fmt: skip
    if not torch.allclose(answer, right, rtol=0, atol=1e-3):  # exp(-decay * sum) is as good
        diagnose(answer, right, mistakes, f"for the second case it is {right[1]:.3f}, yours {answer[1]:.3f}.")


class _ReadsPatchZero(ConViT):
    """A ConViT whose layers are all GPSA and whose classifier reads the token at index 0 all the same."""

    def forward(self, images: Tensor, trace: dict | None = None) -> Tensor:
        trace = {} if trace is None else trace
        super().forward(images, trace)
        return self.head(trace["norm"][:, 0])


class _MatrixGate(GPSA):
    """A GPSA layer whose gating parameter has the shape (1, H, 1, 1)."""

    def gate(self) -> Tensor:
        return super().gate().flatten()


def _specimen(kind: type[ConViT] = ConViT, **changes) -> ConViT:
    """An untrained model of two or three blocks; the same one every time."""
    shape = dict(img_size=12, patch_size=4, in_chans=1, num_classes=3, embed_dim=36, depth=3, num_heads=9,
                 local_up_to_layer=2)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(**shape | changes).eval()


def _redrawn(model: ConViT, *names: str) -> ConViT:
    generator = torch.Generator().manual_seed(1)
    for layer in gpsa_layers(model):
        for name in names:
            nn.init.trunc_normal_(getattr(layer, name).weight, std=0.02, generator=generator)
    return model


def _matrix_gates(model: ConViT) -> ConViT:
    for layer in gpsa_layers(model):
        layer.gating_param = nn.Parameter(torch.ones(1, layer.num_heads, 1, 1))
        layer.__class__ = _MatrixGate
    return model


def _specimens() -> list[tuple[str, str, ConViT]]:
    """(what is wrong, what it is in words, the model)."""
    return [
        ("sound", "a ConViT of nine heads", _specimen()),
        ("start erased", "a ConViT with v and pos_proj drawn anew", _redrawn(_specimen(), "v", "pos_proj")),
        ("reads patch 0", "an all-GPSA ConViT that reads patch 0", _specimen(_ReadsPatchZero, local_up_to_layer=3)),
        ("gate decays", "a ConViT with gates of shape (1, H, 1, 1)", _matrix_gates(_specimen())),
        ("sound", "a ConViT of four heads at strength 4", _specimen(num_heads=4, locality_strength=4.0)),
        ("sound", "a DeiT, which has no GPSA layer", _specimen(local_up_to_layer=0)),
        ("sound", "an all-GPSA ConViT that reads the mean of its patches", _specimen(local_up_to_layer=3)),
        ("start erased", "a ConViT with pos_proj alone drawn anew", _redrawn(_specimen(), "pos_proj")),
        ("start erased", "a ConViT with v alone drawn anew", _redrawn(_specimen(), "v")),
    ]


@exercise
def check_find_fault(find: Callable[[ConViT, Tensor], str]) -> None:
    """A function (untrained model, images) -> "sound", "start erased", "reads patch 0" or "gate decays"."""
    images = random_tensor(1, 4, 1, 12, 12).float()
    for truth, words, model in _specimens():
        before = {name: value.clone() for name, value in model.state_dict().items()}
        answer = find(model, images)
        if answer not in FAULTS:
            raise NotYet(f"the function returned {answer!r}; give one of {', '.join(map(repr, FAULTS))}.")
        if answer != truth:
            hint = _HINTS[answer if truth == "sound" else truth]
            raise NotYet(f"you call {words} {answer!r}; it is {truth!r}. {hint}")
        if any(not torch.equal(value, before[name]) for name, value in model.state_dict().items()):
            raise NotYet(f"the answer for {words} is right, but the model is left changed; work on a copy.")


_HINTS = {
    "start erased": "What would local_init write into a copy of the layer? Compare both things that it sets.",
    "reads patch 0": "trace['norm'] holds the last tokens: how many are there, and which of them does the head read?",
    "gate decays": "A rule that spares parameters of one dimension looks at the shape of gating_param.",
}
