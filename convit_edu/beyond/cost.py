"""What a network costs: one counter for all of them, PyTorch's own."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..evaluation import evaluating


@torch.no_grad()
def multiply_adds(model: nn.Module, image_shape: Sequence[int] | None = None) -> int:
    """Multiplications with addition for one image (C, h, w), forward: matrix products and convolutions, no biases.

    `image_shape` is for a network that takes images of any size; the others know theirs. A training step costs about
    three times as much for each of its images.
    """
    shape = model.patch_embed.input_shape if image_shape is None else image_shape
    like = next(model.parameters())
    # The math kernel of attention is made of products that the counter sees; it counts each operation by itself.
    with evaluating(model), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape, dtype=like.dtype, device=like.device))
    return counter.get_total_flops() // 2
