"""Checks for the exercises of chapter 11: from a CNN to a ConViT."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...beyond.cost import multiply_adds
from ...beyond.recast import PatchCNN, recast
from ...positions import kernel_centres
from .verdict import NotYet, close, diagnose, exercise, given, random_tensor, tell, tensor


def _random_conv(dim: int = 4, seed: int = 0) -> nn.Conv2d:
    conv = nn.Conv2d(dim, dim, 3, padding=1, padding_mode="replicate").double()
    conv.weight.data, conv.bias.data = random_tensor(seed, dim, dim, 3, 3), random_tensor(seed + 1, dim)
    return conv


@exercise
def check_tap_of_head(tap: Callable[[Tensor, int], Tensor]) -> None:
    """A function (weight (D, D, 3, 3) of a Conv2d, head) -> the matrix (D, D) that this head must apply."""
    weight = _random_conv().weight.detach()
    answer = torch.stack([tensor(tap(weight.clone(), head), (4, 4), f"your tap of head {head}") for head in range(9)])
    x, y = kernel_centres(9).long().unbind(1)

    def picked(row: Tensor, column: Tensor, transpose: bool = False) -> Tensor:
        found = weight[:, :, row, column].permute(2, 0, 1)  # (9, D, D)
        return found.transpose(1, 2) if transpose else found

    mistakes = {
        "rows and columns are exchanged: a weight is [output, input, row, column], and head h looks at column h // 3 "
        "and row h % 3.": picked(x + 1, y + 1),
        "the filter is mirrored: PyTorch's convolution does not turn its filter around.": picked(1 - y, 1 - x),
        "rows and columns are exchanged, and the filter is mirrored.": picked(1 - x, 1 - y),
        "the matrix is transposed: its rows are outputs.": picked(y + 1, x + 1, True),
        "transposed, and rows and columns of the filter are exchanged.": picked(x + 1, y + 1, True),
    }
    diagnose(answer, picked(y + 1, x + 1), mistakes, "head h stands at kernel_centres(9)[h] = (x, y), from -1 to 1.")


@exercise
def check_factors(split: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
    """A function (nine taps (9, D, D)) -> (W_out (D, 9 D), W_val (9 D, D)) of a layer with heads of width D."""
    D, taps = 4, random_tensor(0, 9, 4, 4)
    answer = split(taps.clone())
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise NotYet("two matrices are wanted: W_out and W_val.")
    if torch.as_tensor(answer[0]).shape == (9 * D, D) and torch.as_tensor(answer[1]).shape == (D, 9 * D):
        raise NotYet("the shapes are exchanged: W_out (D, 9 D) comes first, W_val (9 D, D) second.")
    w_out, w_val = tensor(answer[0], (D, 9 * D), "W_out"), tensor(answer[1], (9 * D, D), "W_val")
    heads = w_out.reshape(D, 9, D).permute(1, 0, 2), w_val.reshape(9, D, D)  # (9, D, d), (9, d, D)
    products = heads[0] @ heads[1]
    interleaved = w_out.reshape(D, D, 9).permute(2, 0, 1) @ w_val.reshape(D, 9, D).transpose(0, 1)
    if close(interleaved, taps) and not close(products, taps):
        raise NotYet("the channels of the heads are interleaved; those of one head stand side by side.")
    mistakes = {
        "the matrix of every head is transposed.": taps.transpose(1, 2),
        "the heads are in the opposite order.": taps.flip(0),
        "the products are the taps over nine; the heads' outputs are added, not averaged.": taps / 9,
        "the products are the squares of the taps: one of the two factors can be the identity.": taps @ taps,
        "the products are the identity: one factor is, the other must be the tap.": torch.eye(D).expand(9, D, D),
    }
    diagnose(products, taps, mistakes, "W_out of head h times W_val of head h must be tap h, for all nine.")


@exercise
def check_least_width(least: Callable[[Tensor], int]) -> None:
    """A function (taps (9, D, D)) -> the least width of a head with which the recast is exact."""
    D = 6
    ranks = {
        "dense": torch.full((9,), D), "low": torch.tensor([1, 2, 1, 3, 1, 1, 2, 1, 1]), "one": torch.ones(9).long(),
    }  # fmt: skip
    for name, rank in ranks.items():
        taps = torch.stack([
            random_tensor(k, D, r) @ random_tensor(k + 20, r, D) for k, r in enumerate(rank.tolist())
        ])  # fmt: skip
        answer, right = int(given(least(taps.clone()))), int(rank.max())
        if answer == right:
            continue
        if answer == -(-D // 9):
            raise NotYet("D / 9 is what a GPSA layer gives a head by default; is it enough for every tap?")
        if answer == D:
            raise NotYet("D is always enough, but is it needed? These taps have low rank.")
        if name == "low" and answer in (1, int(rank.sum()), round(rank.double().mean().item())):
            raise NotYet("all heads of a layer are equally wide, so the tap with the highest rank decides.")
        if answer == 9 * right:
            raise NotYet("the width of one head is wanted, not that of all nine together.")
        raise NotYet(f"the highest rank of these taps is {right}, and you say {answer}.")


@exercise
def check_leak(leak: Callable[[float], float]) -> None:
    """A function: strength alpha -> the share of attention not on the patch looked at, on a grid without end."""
    strengths = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    answer = torch.stack([tensor(leak(strength), ()) for strength in strengths.tolist()])
    steps = torch.arange(-60, 61, dtype=torch.float64)
    line = torch.exp(-strengths[:, None] * steps**2).sum(1)  # (4,): a row of patches, the middle one counts 1
    mistakes = {
        "this is the share that stays; the rest of it leaks.": line**-2,
        "this is one row of patches alone; a Gaussian on the grid is a product of two.": 1 - 1 / line,
        "this counts the four nearest neighbours alone, and does not divide by the sum.": 4 * torch.exp(-strengths),
        "this is the weight of the others over that of the patch; divide by the sum of all.": line**2 - 1,
        "the distance is squared in the score: exp(-alpha |delta|^2).":
            1 - torch.exp(-strengths[:, None] * steps.abs()).sum(1) ** -2,
    }  # fmt: skip
    right = 1 - line**-2
    near = 1 - 1 / (1 + 4 * torch.exp(-strengths) + 4 * torch.exp(-2 * strengths))
    if close(answer, near):
        raise NotYet("the eight nearest are not all there are: at strength 0.5 more distant ones count, too.")
    if not torch.allclose(answer, right, rtol=1e-4, atol=1e-6):
        diagnose(answer, right, mistakes, f"at strength 1 it is {right[1]:.4f}, yours is {answer[1]:.4f}.")


@exercise
def check_relax_steps(steps: Callable[[PatchCNN, object, int, int], int]) -> None:
    """A function (cnn, recast, steps as a CNN, steps after) -> steps from scratch for as many multiply-adds."""
    cnn = PatchCNN(img_size=12, patch_size=4, embed_dim=18, depth=2, num_classes=3)
    model = recast(cnn)
    answer = given(steps(cnn, model, 600, 300))
    as_cnn, as_gpsa = multiply_adds(cnn), multiply_adds(model)
    right = (600 * as_cnn + 300 * as_gpsa) / as_gpsa
    otherwise = f"600 steps of the CNN and 300 of the recast network are worth {right:.0f} steps, not {answer}"
    tell(float(answer), right, {
        "this counts steps; a step of the CNN costs less than a step of the ConViT": 900,
        "these are steps of a CNN; divide by the cost of a ConViT's step": right * as_gpsa / as_cnn,
        "this is the CNN's part alone; the steps after the recast cost, too": 600 * as_cnn / as_gpsa,
        "the CNN comes first: 600 steps of it, and 300 after the recast": 600 + 300 * as_cnn / as_gpsa,
    }, otherwise=otherwise, within=1)  # fmt: skip
