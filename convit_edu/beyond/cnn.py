"""A small residual network (He et al. 2016): the reference whose locality is built in and cannot be unlearned.

It trains by the recipe of the transformers, and it can teach them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm, around which the input passes: (B, C, h, w) -> (B, D, h', w').

    With stride 2 the sides are halved, rounded up. The input is projected (1 x 1) where its shape would not fit.
    """

    def __init__(self, in_dim: int, dim: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, dim, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(dim)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_dim != dim:
            self.shortcut = nn.Sequential(nn.Conv2d(in_dim, dim, 1, stride, bias=False), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.norm1(self.conv1(x)))  # (B, D, h', w')
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(branch)))


class CNN(nn.Module):
    """Residual network of three stages, for images of any size.

    With its defaults it has 121,030 parameters.

    Args:
        in_chans, num_classes: channels, classes.
        width: channels of the first stage, which works at full resolution; each later stage doubles them and
            halves the sides.
        blocks: number of blocks in each of the three stages (ValueError for other than three positive numbers).
    """

    def __init__(
        self, in_chans: int = 1, num_classes: int = 10, width: int = 20, blocks: Sequence[int] = (1, 1, 1)
    ):
        super().__init__()
        blocks = tuple(blocks)
        if len(blocks) != 3 or min(blocks) < 1:
            raise ValueError(f"blocks needs three positive numbers, one for each stage, got {blocks}.")
        # All that is needed to build this model again.
        self.config = dict(in_chans=in_chans, num_classes=num_classes, width=width, blocks=blocks)
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        stages, in_dim = [], width
        for stage, number in enumerate(blocks):
            dim, stride = width * 2**stage, 2 if stage else 1
            first = ResidualBlock(in_dim, dim, stride)
            stages.append(nn.Sequential(first, *(ResidualBlock(dim, dim) for _ in range(number - 1))))
            in_dim = dim
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(in_dim, num_classes)
        self._init_weights()

    def _init_weights(self) -> None:
        # A block's last norm starts at 1. The common start at 0 would cost a short run: it grows by about the
        # learning rate each step, and until it has grown the 3 x 3 convolutions say little.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, h, w) -> logits (B, num_classes)."""
        x = self.stages(self.stem(images))  # (B, 4 * width, h / 4, w / 4), sides rounded up
        return self.head(x.mean((2, 3)))


def create_cnn(seed: int | None = None, **arguments) -> CNN:
    """A `CNN` with these arguments. A `seed` fixes the initial weights and leaves torch's random state as it was."""
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return CNN(**arguments)
