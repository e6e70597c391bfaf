"""Augmentation of a whole batch at once, on its device: flips and crops."""

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
