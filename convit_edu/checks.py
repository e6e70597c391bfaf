"""Checks for the exercises: each takes the reader's own function or tensor and says in words what is wrong.

A check prints "Correct." or "Not yet: ..." and never stops the notebook.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .attention import GPSA
from .model import VisionTransformer, create_model
from .positions import patch_distances, positional_scores
from .train import Recipe


class NotYet(Exception):
    """What is wrong with an answer, in one sentence for the reader."""


def _exercise(check: Callable[..., None]) -> Callable[..., None]:
    """Turn a check that raises NotYet into one that prints its verdict."""

    @functools.wraps(check)
    def verdict(*answer) -> None:
        try:
            check(*answer)
        except NotYet as problem:
            print(f"Not yet: {problem}")
        except Exception as error:  # the reader's own code failed: that is an answer too
            print(f"Not yet: your code stopped with {type(error).__name__}: {error}")
        else:
            print("Correct.")

    return verdict


def _tensor(answer: object, shape: tuple[int, ...], what: str = "your answer") -> Tensor:
    """The answer as a float64 tensor of the given shape, or NotYet."""
    if answer is None or answer is ...:
        raise NotYet(f"{what} is {answer}; does the function return something?")
    answer = torch.as_tensor(answer, dtype=torch.float64)
    if answer.shape != shape:
        raise NotYet(f"{what} has shape {tuple(answer.shape)}, expected {shape}.")
    return answer


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b.to(a.dtype), rtol=1e-6, atol=1e-8)


# --- chapter 04: two attentions and a gate


def _diagnose(answer: Tensor, right: Tensor, mistakes: dict[str, Tensor], otherwise: str) -> None:
    """NotYet with the words of the mistake that the answer equals, or with `otherwise`."""
    if _close(answer, right):
        return
    raise NotYet(next((words for words, wrong in mistakes.items() if _close(answer, wrong)), otherwise))


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@_exercise
def check_mix(mix: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """A function (content, position, lam), both scores (H, N, N) and lam (H,), -> the attention of Eq 7."""
    content, position, lam = _random(0, 2, 4, 4), _random(1, 2, 4, 4), torch.tensor([0.3, -1.2]).double()
    answer = _tensor(mix(content, position, lam), (2, 4, 4))

    def blend(gate: Tensor, dim: int = -1) -> Tensor:
        gate = gate[:, None, None]
        return (1 - gate) * content.softmax(dim) + gate * position.softmax(dim)

    g, g_of_key = lam.sigmoid(), lam.sigmoid()[:, None, None]
    mistakes = {
        "the gate is swapped: sigmoid(lambda) is the share of position.": blend(1 - g),
        "this is one softmax over the sum of the scores (Eq 4); here each score has a softmax of its own.":
            (content + position).softmax(-1),
        "this is one softmax over the mixed scores; mix after the two softmaxes.":
            ((1 - g_of_key) * content + g_of_key * position).softmax(-1),
        "your softmax runs over queries, so that columns sum to 1; rows are queries, so it must run over keys.":
            blend(g, dim=-2),
        "you mix with lambda itself; the gate is sigmoid(lambda).": blend(lam),
        "the two attentions are added without weights; the gate is missing.": 2 * blend(torch.full_like(lam, 0.5)),
    }  # fmt: skip
    otherwise = "a row must sum to 1." if not _close(answer.sum(-1), torch.ones(2, 4)) else (
        "the rows sum to 1, but they are not the mixture; has every head its own gate?"
    )  # fmt: skip
    _diagnose(answer, blend(g), mistakes, otherwise)


@_exercise
def check_positional_weights(weights: Callable[[float], Tensor]) -> None:
    """A function (alpha) -> the three weights, for (dx, dy, dx² + dy²), of a head that looks at (x=2, y=-1)."""
    alpha = 1.5
    answer = _tensor(weights(alpha), (3,))

    def linear(x: float, y: float, d: float) -> Tensor:
        return alpha * torch.tensor([x, y, d], dtype=torch.float64)

    mistakes = {
        "a factor 2 is missing: in -alpha |delta - Delta|² the mixed term is 2 alpha Delta · delta.": linear(2, -1, -1),
        "x and y are swapped: x is the column, and it comes first.": linear(-2, 4, -1),
        "the sign of the offset is wrong: this head looks at (x=-2, y=1).": linear(-4, 2, -1),
        "the sign of the last weight is wrong: this head prefers patches far away.": linear(4, -2, 1),
        "every sign is wrong: this head avoids the offset it should look at.": linear(-4, 2, 1),
        "this is the order of the paper's Eq 5; here dx² + dy² comes last.": linear(-1, 4, -2),
        "alpha multiplies all three weights, not only the last.": torch.tensor([4, -2, -alpha], dtype=torch.float64),
        "alpha is missing.": linear(4, -2, -1) / alpha,
    }
    _diagnose(answer, linear(4, -2, -1), mistakes, "multiply out -alpha |delta - Delta|² and compare term by term.")


@_exercise
def check_strength(strength: Callable[[float], float]) -> None:
    """A function (width) -> the strength alpha whose Gaussian has this standard deviation, in patches."""
    width = torch.tensor([0.7, 3.0], dtype=torch.float64)
    answer = torch.stack([_tensor(strength(w), ()) for w in width.tolist()])
    mistakes = {
        "the 2 is missing: exp(-d² / (2 width²)) is the Gaussian.": 1 / width**2,
        "the other way round: a wider Gaussian needs a smaller strength.": 2 * width**2,
        "the width is a standard deviation, and the variance is its square.": 1 / (2 * width),
        "this turns a strength into a width; the exercise asks for the way back.": (2 * width).rsqrt(),
        "the 2 belongs below the line: variance = 1 / (2 alpha).": 2 / width**2,
    }
    _diagnose(answer, 1 / (2 * width**2), mistakes, "solve width² = 1 / (2 alpha) for alpha.")


@_exercise
def check_gate_gradient(gradient: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
    """A function (P, C, lam, dL_dA) of shapes (H, N, N), (B, H, N, N), (H,), (B, H, N, N) -> dL/dlambda (H,)."""
    P, C, lam = _random(0, 2, 4, 4).softmax(-1), _random(1, 3, 2, 4, 4).softmax(-1), torch.tensor([0.3, -1.2]).double()
    dL_dA, g = _random(2, 3, 2, 4, 4), lam.sigmoid()
    answer = _tensor(gradient(P, C, lam, dL_dA), (2,))
    total = ((P - C) * dL_dA).sum((0, 2, 3))
    right = g * (1 - g) * total
    mistakes = {
        "the slope of the sigmoid, g (1 - g), is missing.": total,
        "the sign is wrong: a larger lambda adds position and takes content away.": -right,
        "the slope is missing, and the sign is wrong.": -total,
        "the slope of the sigmoid is g (1 - g) with g = sigmoid(lambda), not with lambda.": lam * (1 - lam) * total,
        "sum over images, queries and keys; you took the mean.": right / (3 * 4 * 4),
        "the gate is shared by all images: sum over them, too; you took their mean.": right / 3,
        "the derivative of sigmoid(lambda) is g (1 - g), not g.": g * total,
    }
    _diagnose(answer, right, mistakes, "chain rule: sum of dL/dA times dA/dlambda over images, queries and keys.")


@_exercise
def check_filter_row(row: Callable[[Tensor], Tensor]) -> None:
    """A function (kernel (3, 3)) -> the nine weights of W_out's row by which nine sharp heads apply the kernel."""
    kernel = _random(0, 3, 3)
    answer = _tensor(row(kernel), (9,))
    mistakes = {
        "rows and columns are exchanged: head h looks at column h // 3 and row h % 3.": kernel.flatten(),
        "your filter is turned by 180 degrees: offsets are key minus query, and F.conv2d does not flip its kernel.":
            kernel.T.flatten().flip(0),
        "rows and columns are exchanged, and the filter is turned by 180 degrees.": kernel.flatten().flip(0),
    }  # fmt: skip
    _diagnose(answer, kernel.T.flatten(), mistakes, "for each head, which entry of the kernel does its offset meet?")


# --- chapter 05: the network


def _same_number(answer: object, expected: int, reasons: dict[int, str], what: str) -> None:
    if answer is None or answer is ...:
        raise NotYet(f"the function returned {answer} for {what}.")
    if answer != expected:
        raise NotYet(f"for {what} you count {answer:,}, it is {expected:,}; {reasons.get(answer, 'go part by part.')}")


@_exercise
def check_gpsa_parameters(count: Callable[[int, int], int]) -> None:
    """A function (D, H) -> number of parameters of a GPSA layer without qkv bias."""
    for D, H in ((192, 4), (432, 9), (36, 1)):
        expected = 4 * D**2 + D + 5 * H
        reasons = {
            4 * D**2 + D: "you have counted plain self-attention: pos_proj and the gates are missing.",
            4 * D**2 + 5 * H: "the output projection has a bias.",
            4 * D**2 + D + 4 * H: "pos_proj has a bias, and every head a gate: count both.",
            4 * D**2 + D + 3 * H: "pos_proj has a bias, and every head has a gate.",
            4 * D**2 + 4 * D + 5 * H: "queries, keys and values have no bias here.",
            3 * D**2 + D + 5 * H: "there are four D x D maps: queries, keys, values and the output.",
        }
        _same_number(count(D, H), expected, reasons, f"D={D}, H={H}")


@_exercise
def check_token_counts(lengths: Callable[..., list[int]]) -> None:
    """A function (grid, depth, local_up_to_layer) -> tokens that enter each block."""
    for grid, depth, local in (((7, 7), 6, 4), ((4, 9), 3, 1), ((14, 14), 12, 0), ((3, 3), 5, 5)):
        answer, patches = lengths(grid, depth, local), grid[0] * grid[1]
        what = f"grid {grid}, {depth} blocks, {local} of them GPSA"
        if answer is None or answer is ...:
            raise NotYet(f"the function returned {answer} for {what}.")
        answer = list(answer)
        if len(answer) != depth:
            raise NotYet(f"for {what} you give {len(answer)} numbers; one a block is wanted.")
        expected = [patches + (local <= layer and local < depth) for layer in range(depth)]
        if answer != expected:
            if answer == [patches + 1] * depth:
                raise NotYet(f"for {what}: the class token joins after the last GPSA block, not at the input.")
            if answer == [patches + (layer > local) for layer in range(depth)]:
                raise NotYet(f"for {what}: you are one block late; the first block after GPSA already has the token.")
            raise NotYet(f"for {what} you give {answer}, it is {expected}.")


@_exercise
def check_late_token(model: VisionTransformer) -> None:
    """A convit_mini_28 without GPSA whose class token joins at block 4."""
    if not isinstance(model, VisionTransformer):
        raise NotYet(f"a VisionTransformer is wanted, this is a {type(model).__name__}.")
    if any(isinstance(block.attn, GPSA) for block in model.blocks):
        raise NotYet("there are still GPSA layers; which argument sets their number?")
    if model.pool != "token":
        raise NotYet("this model pools by the mean and has no class token at all.")
    if model.class_token_at != 4:
        raise NotYet(f"the class token joins before block {model.class_token_at}; in the ConViT it is block 4.")
    if model.config["embed_dim"] != 72 or len(model.blocks) != 6 or model.config["num_heads"] != 9:
        raise NotYet("width, depth or heads have changed; a control changes one thing only.")


@_exercise
def check_repair(repair: Callable[[VisionTransformer], None]) -> None:
    """A function that gives a ConViT its local start back, in place, and leaves all else alone."""
    model = create_model("convit_mini_28", seed=0, positional_init=False, identity_values=False)
    for layer in model.modules():
        if isinstance(layer, GPSA):
            layer.positional_init = layer.identity_values = True
    before = {name: value.clone() for name, value in model.state_dict().items()}
    repair(model)
    fresh = create_model("convit_mini_28", seed=0).blocks[0].attn
    for name, value in model.state_dict().items():
        part = name.split("attn.")[-1]
        local = name.startswith("blocks") and int(name.split(".")[1]) < 4
        if local and part == "v.weight" and not torch.equal(value, fresh.v.weight):
            raise NotYet(f"{name} is not the identity yet.")
        if local and part == "pos_proj.weight" and not torch.equal(value, fresh.pos_proj.weight):
            raise NotYet(f"{name} does not hold the centres and the strength yet.")
        if not (local and part in ("v.weight", "pos_proj.weight")) and not torch.equal(value, before[name]):
            raise NotYet(f"{name} has changed; a trained network would have lost it.")


@_exercise
def check_forward(forward: Callable[[VisionTransformer, Tensor], Tensor]) -> None:
    """A forward pass (model, images) -> logits for every kind of VisionTransformer."""
    images = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)).double()
    for overrides in (
        {}, {"local_up_to_layer": 0}, {"class_token_at": 5}, {"pool": "mean"}, {"local_up_to_layer": 6},
    ):  # fmt: skip
        model = create_model("convit_mini_28", seed=0, **overrides).double().eval()
        what = ", ".join(f"{name}={value!r}" for name, value in overrides.items()) or "the plain ConViT"
        answer, expected = _tensor(forward(model, images), (2, 10), f"the output for {what}"), model(images)
        if not _close(answer, expected):
            if model.pool == "mean":
                raise NotYet(f"for {what} the output differs: average the patch tokens, without a class token.")
            raise NotYet(f"for {what} the output differs: where does the class token join, and which token is read?")


# --- chapter 06: the positional softmax as an outer product


@_exercise
def check_axis_factors(factors: Callable) -> None:
    """A function (weights (w_x, w_y, w_d), grid) -> the factors (G_h, G_h) and (G_w, G_w) of one head."""
    w_x, w_y, w_d = _random(0, 3)
    pair = factors(torch.stack((w_x, w_y, w_d)), (3, 4))
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise NotYet("return two matrices: the factor of the rows, then that of the columns.")
    if tuple(len(factor) for factor in pair) == (4, 3):
        raise NotYet("the grid has 3 rows and 4 columns, and the factor of the rows comes first.")
    rows, columns = _tensor(pair[0], (3, 3), "the factor of rows"), _tensor(pair[1], (4, 4), "the factor of columns")

    def scores(w: Tensor, d: Tensor, size: int) -> Tensor:
        index = torch.arange(size, dtype=torch.float64)
        delta = index[None, :] - index[:, None]
        return w * delta + d * delta**2

    def both(y: Tensor, x: Tensor, d_y: Tensor, d_x: Tensor, weights=lambda s: s.softmax(-1)) -> Tensor:
        return torch.cat([weights(scores(y, d_y, 3)).flatten(), weights(scores(x, d_x, 4)).flatten()])

    mistakes = {
        "your softmax runs over queries; rows are queries, so each row must sum to 1.":
            both(w_y, w_x, w_d, w_d, lambda s: s.softmax(-2)),
        "each row must sum to 1; divide the exponentials by their sum.": both(w_y, w_x, w_d, w_d, torch.exp),
        "these are scores; the softmax is missing.": both(w_y, w_x, w_d, w_d, lambda s: s),
        "x and y are swapped: between rows dy changes, and its weight is the second.": both(w_x, w_y, w_d, w_d),
        "the factor of the columns forgets its square: dx² belongs to it.": both(w_y, w_x, w_d, 0),
        "the factor of the rows forgets its square: dy² belongs to it.": both(w_y, w_x, 0, w_d),
        "both factors forget their squares: the third weight is missing.": both(w_y, w_x, 0, 0),
        "the third weight is not shared out: w_d dx² and w_d dy² have all of it.": both(w_y, w_x, w_d / 2, w_d / 2),
        "your offsets are query minus key; here they are key minus query.": both(-w_y, -w_x, w_d, w_d),
    }  # fmt: skip
    otherwise = "write each factor as a softmax over one axis of its own part of the score."
    _diagnose(torch.cat((rows.flatten(), columns.flatten())), both(w_y, w_x, w_d, w_d), mistakes, otherwise)


class _Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor made while this is on has."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.size = max(self.size, result.numel())
        return result


@_exercise
def check_apply(apply: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """A function (rows (G_h, G_h), columns (G_w, G_w), values (N, d)) -> (N, d), without an N x N matrix."""
    rows, columns, values = _random(0, 4, 4).softmax(-1), _random(1, 6, 6).softmax(-1), _random(2, 24, 2)
    with _Largest() as largest:
        answer = apply(rows, columns, values)
    answer = _tensor(answer, (24, 2))

    def whole(left: Tensor, right: Tensor) -> Tensor:
        return torch.einsum("ik,jl->ijkl", left, right).reshape(24, 24) @ values

    transposed = "a row of a factor is a query: sum over its second index, and do not transpose"
    mistakes = {
        f"{transposed} the two.": whole(rows.T, columns.T),
        f"{transposed} the rows' factor.": whole(rows.T, columns),
        f"{transposed} the columns' factor.": whole(rows, columns.T),
        "rows and columns are swapped: patches are numbered row by row, so values are (G_h, G_w, d).":
            whole(columns, rows),
        "only the rows are mixed; now the columns.": whole(rows, torch.eye(6).double()),
        "only the columns are mixed; now the rows.": whole(torch.eye(4).double(), columns),
    }  # fmt: skip
    _diagnose(answer, whole(rows, columns), mistakes, "compare it with torch.kron(rows, columns) @ values.")
    if largest.size >= 24 * 24:
        raise NotYet(f"right, but one of your tensors on the way has {largest.size} numbers for N = 24: N x N again.")


# name: (does its attention factorise?, why)
_ENCODINGS = {
    "quadratic": (True, "w_d (dx² + dy²) + w_x dx + w_y dy is one function of dx plus one of dy."),
    "table": (False, "a free number for every pair (dx, dy) is in general no function of dx plus one of dy."),
    "manhattan": (True, "-|dx| - |dy| is a sum of one function of each."),
    "euclidean": (False, "a square root of a sum is no sum of two functions: try (0, 0), (0, 1), (1, 0) and (1, 1)."),
    "row table + column table": (True, "any two functions will do, learned ones too; they need not be formulas."),
    "class token": (
        False,
        "the class token adds a term to the sum that normalises, and this sum is a product no longer. (It is nearly as "
        "good: the part over patches is the outer product times one number for each query.)",
    ),
    "one softmax": (False, "Q K^T depends on both patches and is no sum over the axes, so neither is the total score."),
}


@_exercise
def check_which_factorise(answers: dict[str, bool]) -> None:
    """A dict: for each encoding of the exercise, whether its attention is a product of a row and a column factor."""
    for name, (truth, why) in _ENCODINGS.items():
        if not isinstance(answers.get(name), bool):
            raise NotYet(f"{name!r} has no answer; say True or False.")
        if answers[name] != truth:
            raise NotYet(f"{name!r} {'does' if truth else 'does not'} factorise: {why}")


@_exercise
def check_is_separable(is_separable: Callable[[Tensor, tuple[int, int]], bool]) -> None:
    """A function (attention (N, N), grid) -> whether it is a row factor times a column factor."""
    weight, grid = _random(0, 1, 3), (3, 4)
    uniform = torch.full((12, 12), 1 / 12).double()
    swap = torch.eye(9).double().reshape(3, 3, 3, 3).transpose(2, 3).reshape(9, 9)
    examples = [
        (positional_scores(weight, torch.zeros(1), grid)[0].softmax(-1), grid, True,
         "a GPSA head with learned weights is; allow for rounding, and mind which axis is which."),
        (torch.eye(12).double(), grid, True, "the identity is; its rank as an N x N matrix says nothing."),
        (uniform, grid, True, "uniform attention is."),
        (_random(1, 12).softmax(-1).expand(12, 12), grid, False,
         "where all queries look at the same patches alike, the N x N matrix has rank one, but that is another "
         "question: reshape first."),
        ((torch.eye(12).double() + uniform) / 2, grid, False, "half identity, half uniform is symmetric, no product."),
        (swap, (3, 3), False,
         "where patch (i, j) looks at patch (j, i), each query's map is a product, but the factor of the rows "
         "must be the same for all queries of a row."),
        ((-patch_distances(grid).double() / 9).softmax(-1), grid, False,
         "a softmax over distance is only close to it."),
    ]  # fmt: skip
    for attention, grid, truth, why in examples:
        answer = is_separable(attention, grid)
        if answer is None or answer is ...:
            raise NotYet(f"the function returned {answer}; say True or False.")
        if bool(answer) != truth:
            raise NotYet(f"you say {bool(answer)} where it is {truth}: {why}")


# --- chapter 07: training


@_exercise
def check_learning_rate(rate: Callable[..., float]) -> None:
    """A function (step, steps, warmup, highest, lowest) -> learning rate."""
    recipe = Recipe(steps=100, warmup_steps=10, lr=0.4, min_lr=0.04)
    answers = [rate(step, 100, 10, 0.4, 0.04) for step in range(100)]
    if any(answer is None or answer is ... for answer in answers):
        raise NotYet("the function returns nothing for some steps.")
    expected = [recipe.learning_rate(step) for step in range(100)]
    wrong = [step for step in range(100) if abs(answers[step] - expected[step]) > 1e-9]
    if not wrong:
        return
    if abs(answers[0]) < 1e-9:
        raise NotYet("the first step has rate 0 and would change nothing; warm-up counts from t + 1.")
    if max(wrong) < 10:
        raise NotYet(f"the warm-up is off: step {wrong[0]} of 10 should have {expected[wrong[0]]:.3f}.")
    if min(answers) < 0.039:
        raise NotYet("the rate falls below the lowest; the cosine runs between highest and lowest.")
    if abs(answers[55] - recipe.learning_rate(50)) < 0.03 or abs(answers[10] - 0.4) > 1e-9:
        raise NotYet("the cosine starts when the warm-up ends: subtract the warm-up from step and steps.")
    raise NotYet(f"step {wrong[0]} should have {expected[wrong[0]]:.4f}, yours is {answers[wrong[0]]:.4f}.")


@_exercise
def check_decays(decays: Callable[[str, Tensor], bool]) -> None:
    """A function (name, parameter) -> whether weight decay applies."""
    for name, parameter in create_model("convit_mini_28").named_parameters():
        answer = decays(name, parameter)
        if answer is None or answer is ...:
            raise NotYet(f"the function returned {answer} for {name}.")
        expected = parameter.ndim > 1 and name not in ("cls_token", "pos_embed")
        if bool(answer) != expected:
            shape = tuple(parameter.shape)
            if expected:
                raise NotYet(f"{name} {shape} is a matrix (or a stack of filters) and is decayed.")
            if parameter.ndim > 1:
                raise NotYet(f"{name} {shape} is a token or a position, not a matrix that multiplies an input.")
            raise NotYet(f"{name} {shape} is no matrix: biases, norms and gates are spared.")


@_exercise
def check_subset(subset: Callable[[Tensor, int, int], Tensor]) -> None:
    """A function (labels, per_class, seed) -> indices of a balanced, seeded, nested subset."""
    labels = torch.randint(0, 5, (400,), generator=torch.Generator().manual_seed(0))
    small, again, large, other = (subset(labels, n, seed) for n, seed in ((4, 0), (4, 0), (9, 0), (4, 1)))
    if small is None or small is ...:
        raise NotYet(f"the function returned {small}.")
    small, again, large, other = (torch.as_tensor(answer) for answer in (small, again, large, other))
    if small.shape != (20,):
        raise NotYet(f"4 images of each of 5 classes are 20 indices; yours have shape {tuple(small.shape)}.")
    if len(set(small.tolist())) < 20:
        raise NotYet("some image is there twice.")
    if torch.bincount(labels[small], minlength=5).tolist() != [4] * 5:
        raise NotYet(f"not balanced: the classes have {torch.bincount(labels[small], minlength=5).tolist()} images.")
    if not torch.equal(small, again):
        raise NotYet("the same seed gives another subset; draw from a generator made with the seed.")
    if set(small.tolist()) == set(other.tolist()):
        raise NotYet("another seed gives the same subset; is the seed used?")
    if not set(small.tolist()) <= set(large.tolist()):
        raise NotYet("not nested: some of the 4 images a class are not among the 9; shuffle once.")


@_exercise
def check_paired_interval(interval: Callable[..., tuple]) -> None:
    """A function (a, b) -> mean paired difference and half-width of its 95 % interval, for five seeds."""
    a, b = torch.tensor([[62.0, 60.5, 64.0, 58.5, 61.0], [46.0, 45.5, 47.0, 43.5, 44.0]], dtype=torch.float64)
    answer = interval(a.tolist(), b.tolist())
    if answer is None or answer is ...:
        raise NotYet(f"the function returned {answer}.")
    mean, half = (float(part) for part in answer)
    d = a - b
    error = (d.std() / 5**0.5).item()
    if abs(mean - d.mean().item()) > 1e-6:
        why = "b - a is the wrong way round." if mean < 0 else "average a - b."
        raise NotYet(f"the mean difference is off; {why}")
    independent = ((a.var() + b.var()) / 5).sqrt().item()
    for wrong, why in (
        (error, "this is the standard error; multiply by t."),
        (1.96 * error, "1.96 belongs to many seeds; five need 2.776."),
        (2.776 * d.std().item(), "divide the standard deviation by the root of the number of seeds."),
        (2.776 * (d.std(correction=0) / 5**0.5).item(), "divide the squares by n - 1, not by n."),
        (2.776 * independent, "you treat the arms as independent; take the spread of the differences."),
    ):
        if abs(half - wrong) < 1e-6:
            raise NotYet(why)
    if abs(half - 2.776 * error) > 1e-3:
        raise NotYet(f"the half-width should be {2.776 * error:.3f}, yours is {half:.3f}.")


@_exercise
def check_race(accuracies: dict[str, list[float]]) -> None:
    """Test accuracies in per cent by arm, one a seed: was the race fair?"""
    if len(accuracies) < 4:
        raise NotYet(f"there are {len(accuracies)} arms; add the late token and GPSA without its start.")
    seeds = {arm: len(values) for arm, values in accuracies.items()}
    if len(set(seeds.values())) > 1:
        raise NotYet(f"the arms have different numbers of seeds: {seeds}; a pair needs both.")
    if min(seeds.values()) < 2:
        raise NotYet("one seed gives no interval; run at least two.")
    values = torch.tensor(list(accuracies.values()), dtype=torch.float64)
    if values.min() < 0 or values.max() > 100 or values.max() <= 1:
        raise NotYet("accuracies are wanted in per cent, between 0 and 100.")
    if len({tuple(arm) for arm in values.tolist()}) < len(accuracies):
        raise NotYet("two arms have the same accuracies at every seed; did both get their own model?")
