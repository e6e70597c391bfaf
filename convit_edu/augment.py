"""Augmentation of a whole batch at once, on its device: flips and crops, random erasing, mixup and cutmix.

Every function draws from a CPU generator that it is given, such as `data.seeded(0, "augment", step)`, so that all
devices draw the same numbers. Shapes: B images in a batch, K classes, C channels, h x w pixels.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def augment(images: Tensor, generator: Generator, flip: bool = True, padding: int = 2) -> Tensor:
    """Mirror each image left to right with probability 1/2, pad its borders, crop it at a random place.

    images (B, C, h, w), uint8 or float -> the same shape, type and device. The `padding` pixels are zero, as
    in DeiT's and ConViT's code for small images: black, also the background of Fashion-MNIST; so augment
    first, then normalise. `generator` is a CPU one, so that every device draws the same. Both kinds of number
    are always drawn: switching one off leaves the other as it was. Raises ValueError for a wrong shape.
    """
    if images.dim() != 4 or padding < 0:
        raise ValueError("augment needs images (B, C, h, w) and padding >= 0, "
                         f"not {tuple(images.shape)} and {padding}.")
    B, C, h, w = images.shape
    mirrored = torch.randint(0, 2, (1, B), generator=generator) * int(flip)
    corner = torch.randint(0, 2 * padding + 1, (2, B), generator=generator)
    draws = torch.cat([mirrored, corner]).to(images.device)  # (3, B), in one transfer
    mirrored, top, left = draws[:, :, None, None]  # (B, 1, 1) each
    x = torch.arange(w, device=images.device)
    x = torch.where(mirrored == 1, w - 1 - x, x) + left  # (B, 1, w)
    y = torch.arange(h, device=images.device)[:, None] + top  # (B, h, 1)
    pixel = (y * (w + 2 * padding) + x).flatten(1)[:, None].expand(-1, C, -1)  # (B, C, h*w)
    return F.pad(images, (padding,) * 4).flatten(2).gather(2, pixel).view(B, C, h, w)


def random_erasing(images: Tensor, generator: Generator, probability: float) -> Tensor:
    """Put a rectangle of noise into each image with this probability (Zhong et al. 2020, as in DeiT's recipe).

    images (B, C, h, w), normalised -> the same shape, type and device. A rectangle covers 2 % to 1/3 of its image
    at any place that holds it whole; height over width is 0.3 to 3.3, uniform in its logarithm, and less extreme
    where the rectangle would not fit. Each of its values is drawn from a standard normal distribution.
    `generator` is a CPU one, so that every device draws the same. Raises ValueError for a wrong shape or
    probability.
    """
    if images.dim() != 4 or not 0 <= probability <= 1:
        raise ValueError("random_erasing needs images (B, C, h, w) and a probability in [0, 1], "
                         f"not {tuple(images.shape)} and {probability}.")
    B, C, h, w = images.shape
    chosen, area, aspect, top, left = torch.rand(5, B, generator=generator)  # each (B,), in 0..1
    noise = torch.randn(images.shape, generator=generator)
    area = h * w * (0.02 + (1 / 3 - 0.02) * area)  # pixels
    aspect = torch.exp(math.log(0.3) + math.log(3.3 / 0.3) * aspect).clamp(area / w**2, h**2 / area)
    height = (area * aspect).sqrt().round().clamp(1, h)
    width = (area / height).round().clamp(1, w)
    top, left = (top * (h + 1 - height)).floor(), (left * (w + 1 - width)).floor()
    height = height * (chosen < probability)  # no row of an image that is not chosen
    box = torch.stack([top, top + height, left, left + width]).to(images.device, torch.int64)  # in one transfer
    top, bottom, left, right = box[:, :, None, None, None]  # (B, 1, 1, 1) each
    y, x = torch.arange(h, device=images.device)[:, None], torch.arange(w, device=images.device)
    inside = (top <= y) & (y < bottom) & (left <= x) & (x < right)  # (B, 1, h, w)
    return torch.where(inside, noise.to(images.device, images.dtype), images)


def mix(
    images: Tensor, labels: Tensor, num_classes: int, generator: Generator, mixup: float = 0.0, cutmix: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Mix images and labels in pairs: by mixup (Zhang et al. 2018) or by cutmix (Yun et al. 2019).

    images (B, C, h, w), normalised; labels (B,) -> images, and targets (B, K), probabilities. A share `lam` of
    each image is its own, lam ~ Beta(alpha, alpha) being one number for the batch. Mixup takes alpha = `mixup`
    and averages: lam * image + (1 - lam) * partner. Cutmix takes alpha = `cutmix` and puts the same rectangle,
    1 - lam of the image, in from the partner; as a border may cut it off, lam becomes the share that is left. An
    alpha of 0 is off; with both on, each is taken with probability 1/2. The partner is the image at the same
    place from the end: batches are in random order already. `generator` is a CPU one, so that every device draws
    the same. Raises ValueError for negative alphas, or if both are 0.
    """
    if not (min(mixup, cutmix) >= 0 and max(mixup, cutmix) > 0):
        raise ValueError(f"mix needs mixup and cutmix >= 0 and one of them above, not {mixup} and {cutmix}.")
    # torch draws no Beta numbers from a generator of one's own; numpy does.
    rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    cut = rng.random() < (0.5 if mixup and cutmix else bool(cutmix))
    lam = rng.beta(cutmix, cutmix) if cut else rng.beta(mixup, mixup)
    partner = images.flip(0)
    if cut:
        h, w = images.shape[2:]
        height, width = (round(side * math.sqrt(1 - lam)) for side in (h, w))
        y, x = rng.integers((h, w)).tolist()  # the centre, in the image
        top, left = y - height // 2, x - width // 2
        rows, columns = slice(max(top, 0), min(top + height, h)), slice(max(left, 0), min(left + width, w))
        images = images.clone()
        images[:, :, rows, columns] = partner[:, :, rows, columns]
        lam = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (h * w)
    else:
        images = lam * images + (1 - lam) * partner
    own = F.one_hot(labels, num_classes).to(images.dtype)  # (B, K)
    return images, lam * own + (1 - lam) * own.flip(0)
