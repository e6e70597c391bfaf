"""The checks of chapter 12 say "Correct." to the right answer and name the typical wrong ones."""

import pytest
import torch

from convit_edu.book import checks
from convit_edu.book.checks.fast_gpsa import ENCODINGS
from convit_edu.positions import axis_attention


def says(check, answer, message, capsys):
    check(answer)
    assert message in capsys.readouterr().out


# --- the two factors


def factors(weights, grid, dim=-1, power=2, sign=1, order=(1, 0), share=1.0):
    """The right answer, and by its options wrong ones."""
    result = []
    for axis, w in enumerate(order):
        index = torch.arange(grid[axis])
        delta = sign * (index[None, :] - index[:, None])
        result.append((weights[w] * delta + share * weights[2] * delta**power).softmax(dim))
    return tuple(result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Correct."),
        ({"dim": -2}, "runs over queries"),
        ({"order": (0, 1)}, "x and y are swapped"),
        ({"sign": -1}, "query minus key"),
        ({"share": 0.0}, "both factors forget their squares"),
        ({"share": 0.5}, "is not shared out"),
    ],
)
def test_axis_factors(options, message, capsys):
    says(checks.check_axis_factors, lambda w, grid: factors(w, grid, **options), message, capsys)


def test_axis_factors_with_one_square_too_few(capsys):
    def forgetful(forgotten):
        def answer(weights, grid):
            right, flat = factors(weights, grid), factors(weights, grid, share=0.0)
            return tuple(flat[i] if i == forgotten else right[i] for i in range(2))

        return answer

    says(checks.check_axis_factors, forgetful(0), "the factor of the rows forgets", capsys)
    says(checks.check_axis_factors, forgetful(1), "the factor of the columns forgets", capsys)


def test_axis_factors_of_the_package_and_of_another_form(capsys):
    def package(weights, grid):
        rows, columns = axis_attention(lambda r: r @ weights[None].T, grid, dtype=weights.dtype)
        return rows[0], columns[0]

    says(checks.check_axis_factors, package, "Correct.", capsys)
    says(checks.check_axis_factors, lambda w, grid: package(w, grid)[::-1], "rows comes first", capsys)
    says(checks.check_axis_factors, lambda w, grid: package(w, grid)[0], "return two matrices", capsys)
    says(checks.check_axis_factors, lambda w, grid: None, "return two matrices", capsys)


# --- applying them


def apply(rows, columns, values, read=None):
    """The right answer; `read` = (G_w, G_h) reads the values in the wrong order."""
    G_h, G_w = read or (len(rows), len(columns))
    mixed = torch.einsum("ik,kld->ild", rows if not read else columns, values.reshape(G_h, G_w, -1))
    return torch.einsum("jl,ild->ijd", columns if not read else rows, mixed).reshape(values.shape)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
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
    ],
)
def test_apply(answer, message, capsys):
    says(checks.check_apply, answer, message, capsys)


# --- which encodings factorise

RIGHT = {name: truth for name, (truth, _) in ENCODINGS.items()}


def test_which_factorise(capsys):
    says(checks.check_which_factorise, RIGHT, "Correct.", capsys)
    says(checks.check_which_factorise, {}, "'quadratic' has no answer", capsys)
    says(checks.check_which_factorise, dict.fromkeys(RIGHT), "has no answer; say True or False", capsys)


@pytest.mark.parametrize("name", RIGHT)
def test_every_wrong_guess_is_named_with_its_reason(name, capsys):
    checks.check_which_factorise(RIGHT | {name: not RIGHT[name]})
    said = capsys.readouterr().out
    assert f"'{name}' {'does' if RIGHT[name] else 'does not'} factorise" in said
    assert ENCODINGS[name][1] in said


# --- a test for it


def is_separable(attention, grid):
    G_h, G_w = grid
    pairs = attention.reshape(G_h, G_w, G_h, G_w).transpose(1, 2).reshape(G_h**2, G_w**2)
    singular = torch.linalg.svdvals(pairs)
    return bool(singular[1] < 1e-9 * singular[0])


def each_map_is_a_product(attention, grid):
    return all(torch.linalg.matrix_rank(row.reshape(grid)) == 1 for row in attention)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (is_separable, "Correct."),
        (lambda attention, grid: torch.linalg.matrix_rank(attention) == 1, "a GPSA head with learned weights is"),
        (lambda attention, grid: is_separable(attention, grid) and not torch.equal(attention, attention.T),
         "its rank as an N x N matrix says nothing"),
        (lambda attention, grid: is_separable(attention, grid) or torch.linalg.matrix_rank(attention) == 1,
         "has rank one, but that is another question"),
        (lambda attention, grid: is_separable(attention, grid) or torch.allclose(attention, attention.T),
         "is symmetric, no product"),
        (each_map_is_a_product, "must be the same for all queries of a row"),
        (lambda attention, grid: is_separable(attention, grid[::-1]), "mind which axis is which"),
        (lambda attention, grid: None, "returned None; say True or False"),
        (lambda attention, grid: attention / "", "your code stopped with TypeError"),
    ],
)  # fmt: skip
def test_is_separable(answer, message, capsys):
    says(checks.check_is_separable, answer, message, capsys)


def test_a_loose_tolerance_is_noticed(capsys):
    def loose(attention, grid):
        G_h, G_w = grid
        pairs = attention.reshape(G_h, G_w, G_h, G_w).transpose(1, 2).reshape(G_h**2, G_w**2)
        singular = torch.linalg.svdvals(pairs)
        return singular[1] < 0.05 * singular[0]

    says(checks.check_is_separable, loose, "only close to it", capsys)
