"""The checks of chapter 12: the right answer passes, typical wrong ones are told what is wrong."""

import torch
from verdicts import verdict_test

from convit_edu.book.checks.fast_gpsa import ENCODINGS
from convit_edu.positions import axis_attention

CASES = {}


# --- the two factors


def factors(weights, grid, dim=-1, power=2, sign=1, order=(1, 0), share=1.0):
    """The right answer, and by its options wrong ones."""
    result = []
    for axis, w in enumerate(order):
        index = torch.arange(grid[axis])
        delta = sign * (index[None, :] - index[:, None])
        result.append((weights[w] * delta + share * weights[2] * delta**power).softmax(dim))
    return tuple(result)


def by(**options):
    return lambda weights, grid: factors(weights, grid, **options)


def forgetful(forgotten):
    """One of the two factors lacks its square."""

    def answer(weights, grid):
        right, flat = factors(weights, grid), factors(weights, grid, share=0.0)
        return tuple(flat[i] if i == forgotten else right[i] for i in range(2))

    return answer


def package(weights, grid):
    rows, columns = axis_attention(lambda r: r @ weights[None].T, grid, dtype=weights.dtype)
    return rows[0], columns[0]


CASES["axis_factors"] = [
    (factors, "Correct."),
    (package, "Correct."),
    (by(dim=-2), "runs over queries"),
    (by(order=(0, 1)), "x and y are swapped"),
    (by(sign=-1), "query minus key"),
    (by(share=0.0), "both factors forget their squares"),
    (by(share=0.5), "is not shared out"),
    (forgetful(0), "the factor of the rows forgets"),
    (forgetful(1), "the factor of the columns forgets"),
    (lambda w, grid: package(w, grid)[::-1], "rows comes first"),
    (lambda w, grid: package(w, grid)[0], "return two matrices"),
    (lambda w, grid: None, "return two matrices"),
]


# --- applying them


def apply(rows, columns, values, read=None):
    """The right answer; `read` = (G_w, G_h) reads the values in the wrong order."""
    G_h, G_w = read or (len(rows), len(columns))
    mixed = torch.einsum("ik,kld->ild", rows if not read else columns, values.reshape(G_h, G_w, -1))
    return torch.einsum("jl,ild->ijd", columns if not read else rows, mixed).reshape(values.shape)


CASES["apply"] = [
    (apply, "Correct."),
    (lambda r, c, v: apply(r, c, v, read=(6, 4)), "rows and columns are swapped"),
    (lambda r, c, v: apply(r.T, c.T, v), "do not transpose the two"),
    (lambda r, c, v: apply(r.T, c, v), "do not transpose the rows' factor"),
    (lambda r, c, v: apply(r, c.T, v), "do not transpose the columns' factor"),
    (lambda r, c, v: apply(r, torch.eye(6).double(), v), "only the rows are mixed"),
    (lambda r, c, v: apply(torch.eye(4).double(), c, v), "only the columns are mixed"),
    (lambda r, c, v: torch.kron(r, c) @ v, "has 576 numbers for N = 24: N x N again"),
    (lambda r, c, v: apply(r, c, v).reshape(4, 6, 2), "has shape (4, 6, 2), expected (24, 2)"),
    (lambda r, c, v: 2 * apply(r, c, v), "compare it with torch.kron"),
]


# --- which encodings factorise

RIGHT = {name: truth for name, (truth, _) in ENCODINGS.items()}
CASES["which_factorise"] = [
    (RIGHT, "Correct."),
    ({}, "'quadratic' has no answer"),
    (dict.fromkeys(RIGHT), "has no answer; say True or False"),
]
for name, truth in RIGHT.items():  # every wrong guess is named, with its reason
    wrong, words = RIGHT | {name: not truth}, f"'{name}' {'does' if truth else 'does not'} factorise"
    CASES["which_factorise"] += [(wrong, words), (wrong, ENCODINGS[name][1])]


# --- a test for it


def is_separable(attention, grid, tolerance=1e-9):
    G_h, G_w = grid
    pairs = attention.reshape(G_h, G_w, G_h, G_w).transpose(1, 2).reshape(G_h**2, G_w**2)
    singular = torch.linalg.svdvals(pairs)
    return bool(singular[1] < tolerance * singular[0])


def each_map_is_a_product(attention, grid):
    return all(torch.linalg.matrix_rank(row.reshape(grid)) == 1 for row in attention)


CASES["is_separable"] = [
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
    (lambda attention, grid: None, "returned None; say True or False"),
    (lambda attention, grid: attention / "", "your code stopped with TypeError"),
]  # fmt: skip


test_the_verdict = verdict_test(CASES)
