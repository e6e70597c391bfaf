"""Checks for the exercises of chapter 01: images are local."""

from collections.abc import Callable

import torch
from torch import Tensor

from .verdict import diagnose, exercise, random_tensor, tensor


@exercise
def check_correlation(correlation: Callable[[Tensor, int], float]) -> None:
    """A function (image (h, w), d) -> the correlation of its pixels at distance d along rows and columns."""
    image, d = random_tensor(0, 5, 7) + 3, 2
    answer = tensor(correlation(image, d), ())
    c = image - image.mean()
    variance = c.square().mean()

    def pairs(x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, d:] * x[:, :-d], x[d:] * x[:-d]

    across, down = pairs(c)
    both = torch.cat([across.flatten(), down.flatten()])
    raw = torch.cat([p.flatten() for p in pairs(image)])
    wrapped = torch.cat([(c * c.roll(d, axis)).flatten() for axis in (0, 1)])
    mistakes = {
        "this is a covariance: divide by the variance of the pixels.": both.mean(),
        "the mean of the image is not subtracted.": raw.mean() / variance,
        "the mean of the image is not subtracted, nor is the variance divided out.": raw.mean(),
        "only pairs within a row are counted; pairs within a column are missing.": across.mean() / variance,
        "only pairs within a column are counted; pairs within a row are missing.": down.mean() / variance,
        "divide by the number of pairs, not by the number of pixels.": both.sum() / image.numel() / variance,
        "your pairs wrap around: the last pixel of a row has no right neighbour.": wrapped.mean() / variance,
        "all pairs count alike: average over rows and columns together, not over the two averages.":
            (across.mean() + down.mean()) / 2 / variance,
        "divide by the variance, not by the standard deviation.": both.mean() / variance.sqrt(),
        "the variance here divides by the number of pixels, not by one less (torch: correction=0).":
            both.mean() / c.square().sum() * (image.numel() - 1),
    }  # fmt: skip
    diagnose(answer, both.mean() / variance, mistakes, "compare with the 3 × 3 example, where rho(1) is 0.5.")


@exercise
def check_first_layer(first_layer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """A function (W (K, n), permutation (n,)) -> the weights that do on x[permutation] what W does on x."""
    W, permutation = random_tensor(0, 3, 6), torch.tensor([2, 0, 3, 5, 1, 4])
    answer = tensor(first_layer(W, permutation), (3, 6))
    inverse = permutation.argsort()
    mistakes = {
        "these are the old weights: each still waits for its pixel at the old place.": W,
        "this is the inverse permutation: place j now holds pixel permutation[j], and must get that pixel's weights.":
            W[:, inverse],
    }  # fmt: skip
    diagnose(answer, W[:, permutation], mistakes, "each column of W belongs to a pixel: where is this pixel now?")


@exercise
def check_nearest_kernel(kernel: Callable[[Tensor, int], Tensor]) -> None:
    """A function (W (G², G²), G) -> the 3 × 3 kernel, as in F.conv2d, whose dense matrix is nearest to W."""
    G = 4
    W = random_tensor(0, G * G, G * G)
    answer = tensor(kernel(W, G), (3, 3))
    place = torch.stack(torch.meshgrid(torch.arange(G), torch.arange(G), indexing="ij"), -1).reshape(-1, 2)
    offset = place[None] - place[:, None]  # (N, N, 2), input minus output, as (row, column)
    same = [[(offset == torch.tensor([y, x])).all(-1) for x in (-1, 0, 1)] for y in (-1, 0, 1)]
    total = torch.stack([torch.stack([W[mask].sum() for mask in row]) for row in same])
    number = torch.stack([torch.stack([mask.sum() for mask in row]) for row in same])
    right = total / number
    mistakes = {
        "this is the sum over all pairs of an offset; the nearest number to several is their mean.": total,
        "at the border some offsets have fewer pairs: divide by their number, not by the number of places.":
            total / G**2,
        "your kernel is turned by 180 degrees: rows of W are outputs, and the offset is input minus output.":
            right.flip(0, 1),
        "rows and columns of the kernel are exchanged.": right.T,
    }  # fmt: skip
    diagnose(answer, right, mistakes, "for each of the nine offsets, average the entries of W that have it.")
