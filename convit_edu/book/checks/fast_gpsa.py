"""Checks for the exercises of chapter 12: the positional softmax as an outer product."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ...positions import patch_distances, positional_scores
from .verdict import NotYet, diagnose, exercise, given, random_tensor, tensor


@exercise
def check_axis_factors(factors: Callable) -> None:
    """A function (weights (w_x, w_y, w_d), grid) -> the factors (G_h, G_h) and (G_w, G_w) of one head."""
    w_x, w_y, w_d = random_tensor(0, 3)
    pair = factors(torch.stack((w_x, w_y, w_d)), (3, 4))
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise NotYet("return two matrices: the factor of the rows, then that of the columns.")
    if tuple(len(factor) for factor in pair) == (4, 3):
        raise NotYet("the grid has 3 rows and 4 columns, and the factor of the rows comes first.")
    rows, columns = tensor(pair[0], (3, 3), "the factor of rows"), tensor(pair[1], (4, 4), "the factor of columns")

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
    diagnose(torch.cat((rows.flatten(), columns.flatten())), both(w_y, w_x, w_d, w_d), mistakes, otherwise)


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


@exercise
def check_apply(apply: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """A function (rows (G_h, G_h), columns (G_w, G_w), values (N, d)) -> (N, d), without an N x N matrix."""
    rows, columns = random_tensor(0, 4, 4).softmax(-1), random_tensor(1, 6, 6).softmax(-1)
    values = random_tensor(2, 24, 2)
    with _Largest() as largest:
        answer = apply(rows, columns, values)
    answer = tensor(answer, (24, 2))

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
    diagnose(answer, whole(rows, columns), mistakes, "compare it with torch.kron(rows, columns) @ values.")
    if largest.size >= 24 * 24:
        raise NotYet(f"right, but one of your tensors on the way has {largest.size} numbers for N = 24: N x N again.")


# name: (does its attention factorise?, why)
ENCODINGS = {
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


@exercise
def check_which_factorise(answers: dict[str, bool]) -> None:
    """A dict: for each encoding of the exercise, whether its attention is a product of a row and a column factor."""
    for name, (truth, why) in ENCODINGS.items():
        if not isinstance(answers.get(name), bool):
            raise NotYet(f"{name!r} has no answer; say True or False.")
        if answers[name] != truth:
            raise NotYet(f"{name!r} {'does' if truth else 'does not'} factorise: {why}")


@exercise
def check_is_separable(is_separable: Callable[[Tensor, tuple[int, int]], bool]) -> None:
    """A function (attention (N, N), grid) -> whether it is a row factor times a column factor."""
    weight, grid = random_tensor(0, 1, 3), (3, 4)
    uniform = torch.full((12, 12), 1 / 12).double()
    swap = torch.eye(9).double().reshape(3, 3, 3, 3).transpose(2, 3).reshape(9, 9)
    examples = [
        (positional_scores(weight, torch.zeros(1), grid)[0].softmax(-1), grid, True,
         "a GPSA head with learned weights is; allow for rounding, and mind which axis is which."),
        (torch.eye(12).double(), grid, True, "the identity is; its rank as an N x N matrix says nothing."),
        (uniform, grid, True, "uniform attention is."),
        (random_tensor(1, 12).softmax(-1).expand(12, 12), grid, False,
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
        answer = given(is_separable(attention, grid), "; say True or False")
        if bool(answer) != truth:
            raise NotYet(f"you say {bool(answer)} where it is {truth}: {why}")
