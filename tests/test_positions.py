"""Offsets, centres and the two factors of positional attention, against double loops."""

import math

import pytest
import torch

from convit_edu.positions import (
    PositionalProjection,
    apply_axis_attention,
    axis_attention,
    kernel_centres,
    patch_distances,
    positional_scores,
    relative_positions,
    resolve_grid,
)

GRIDS = [(1, 5), (4, 1), (2, 5)]


@pytest.mark.parametrize("grid", GRIDS)
def test_relative_positions_are_key_minus_query(grid):
    r = relative_positions(grid)
    rows, columns = grid
    for query in range(rows * columns):
        for key in range(rows * columns):
            dy = key // columns - query // columns
            dx = key % columns - query % columns
            assert r[query, key].tolist() == [dx, dy, dx**2 + dy**2]
            assert patch_distances(grid)[query, key].item() == pytest.approx(math.hypot(dx, dy))


@pytest.mark.parametrize("grid", GRIDS)
def test_the_layer_gives_the_scores_of_its_parameters_in_the_type_of_its_input(grid):
    layer = PositionalProjection(3, 5)
    called = layer(relative_positions(grid)).movedim(-1, 0)  # (H, N, N)
    assert torch.equal(called, positional_scores(layer.weight, layer.bias, grid))
    torch.testing.assert_close(called[4], relative_positions(grid) @ layer.weight[4] + layer.bias[4])
    assert layer.bfloat16()(relative_positions(grid)).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        called = layer.float()(relative_positions(grid)).movedim(-1, 0)
        assert torch.equal(called, positional_scores(layer.weight, layer.bias, grid))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("scale", [0.02, 1.0, 30.0])
def test_positional_softmax_is_the_product_of_its_two_factors(grid, scale):
    generator = torch.Generator().manual_seed(0)
    weight = scale * torch.randn(5, 3, generator=generator, dtype=torch.float64)  # learned weights: no structure
    bias = torch.randn(5, generator=generator, dtype=torch.float64)
    whole = positional_scores(weight, bias, grid).softmax(-1)  # (H, N, N)
    rows, columns = axis_attention(lambda r: r @ weight.T + bias, grid, dtype=torch.float64)
    product = torch.einsum("hik,hjl->hijkl", rows, columns).reshape(whole.shape)
    torch.testing.assert_close(product, whole, rtol=0, atol=1e-13)

    values = torch.randn(2, 5, whole.shape[-1], 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(apply_axis_attention(rows, columns, values), whole @ values, rtol=0, atol=1e-12)


def test_kernel_centres_are_whole_for_odd_and_half_for_even_kernels():
    nine = kernel_centres(9).tolist()
    assert sorted(map(tuple, nine)) == [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    assert nine[1] == [-1, 0]  # head 1 is one row further down, in the same column
    assert {abs(c) for pair in kernel_centres(4).tolist() for c in pair} == {0.5}
    assert {abs(c) for pair in kernel_centres(16).tolist() for c in pair} == {0.5, 1.5}
    with pytest.raises(ValueError, match="6 heads cannot form a square kernel"):
        kernel_centres(6)


def test_resolve_grid():
    assert resolve_grid(49) == (7, 7)
    assert resolve_grid(6, (2, 3)) == (2, 3)
    with pytest.raises(ValueError, match="50 tokens do not form a square grid"):
        resolve_grid(50)
    with pytest.raises(ValueError, match="2 x 3 holds 6 patches, but the input has 7 tokens"):
        resolve_grid(7, (2, 3))
