"""Checks for the exercises of chapter 04: two attentions and a gate."""

from collections.abc import Callable

import torch
from torch import Tensor

from .verdict import close, diagnose, exercise, random_tensor, tensor


@exercise
def check_mix(mix: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """A function (content, position, lam), both scores (H, N, N) and lam (H,), -> the attention of Eq 7."""
    content, position, lam = random_tensor(0, 2, 4, 4), random_tensor(1, 2, 4, 4), torch.tensor([0.3, -1.2]).double()
    answer = tensor(mix(content, position, lam), (2, 4, 4))

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
    otherwise = "a row must sum to 1." if not close(answer.sum(-1), torch.ones(2, 4)) else (
        "the rows sum to 1, but they are not the mixture; has every head its own gate?"
    )  # fmt: skip
    diagnose(answer, blend(g), mistakes, otherwise)


@exercise
def check_positional_weights(weights: Callable[[float], Tensor]) -> None:
    """A function (alpha) -> the three weights, for (dx, dy, dx² + dy²), of a head that looks at (x=2, y=-1)."""
    alpha = 1.5
    answer = tensor(weights(alpha), (3,))

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
    diagnose(answer, linear(4, -2, -1), mistakes, "multiply out -alpha |delta - Delta|² and compare term by term.")


@exercise
def check_strength(strength: Callable[[float], float]) -> None:
    """A function (width) -> the strength alpha whose Gaussian has this standard deviation, in patches."""
    width = torch.tensor([0.7, 3.0], dtype=torch.float64)
    answer = torch.stack([tensor(strength(w), ()) for w in width.tolist()])
    mistakes = {
        "the 2 is missing: exp(-d² / (2 width²)) is the Gaussian.": 1 / width**2,
        "the other way round: a wider Gaussian needs a smaller strength.": 2 * width**2,
        "the width is a standard deviation, and the variance is its square.": 1 / (2 * width),
        "this turns a strength into a width; the exercise asks for the way back.": (2 * width).rsqrt(),
        "the 2 belongs below the line: variance = 1 / (2 alpha).": 2 / width**2,
    }
    diagnose(answer, 1 / (2 * width**2), mistakes, "solve width² = 1 / (2 alpha) for alpha.")


@exercise
def check_gate_gradient(gradient: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
    """A function (P, C, lam, dL_dA) of shapes (H, N, N), (B, H, N, N), (H,), (B, H, N, N) -> dL/dlambda (H,)."""
    P, C = random_tensor(0, 2, 4, 4).softmax(-1), random_tensor(1, 3, 2, 4, 4).softmax(-1)
    lam = torch.tensor([0.3, -1.2]).double()
    dL_dA, g = random_tensor(2, 3, 2, 4, 4), lam.sigmoid()
    answer = tensor(gradient(P, C, lam, dL_dA), (2,))
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
    diagnose(answer, right, mistakes, "chain rule: sum of dL/dA times dA/dlambda over images, queries and keys.")


@exercise
def check_filter_row(row: Callable[[Tensor], Tensor]) -> None:
    """A function (kernel (3, 3)) -> the nine weights of W_out's row by which nine sharp heads apply the kernel."""
    kernel = random_tensor(0, 3, 3)
    answer = tensor(row(kernel), (9,))
    mistakes = {
        "rows and columns are exchanged: head h looks at column h // 3 and row h % 3.": kernel.flatten(),
        "your filter is turned by 180 degrees: offsets are key minus query, and F.conv2d does not flip its kernel.":
            kernel.T.flatten().flip(0),
        "rows and columns are exchanged, and the filter is turned by 180 degrees.": kernel.flatten().flip(0),
    }  # fmt: skip
    diagnose(answer, kernel.T.flatten(), mistakes, "for each head, which entry of the kernel does its offset meet?")
