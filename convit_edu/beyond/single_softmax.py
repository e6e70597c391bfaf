"""Vanilla positional attention (Eq 4): one softmax over the sum of both scores, and no gate. Chapter 09 compares it."""

from torch import Tensor

from ..attention import GPSA, at_least_float32, content_scores
from ..model import ConViT
from ..positions import Grid, relative_positions, resolve_grid


class PSA(GPSA):
    """A GPSA layer, same start and same parameters, with the attention of Eq 4: softmax(content + positional scores).

    One softmax of a sum has no factors, so the (B, H, N, N) attention is always stored. `gating_param` takes no part
    and asks for no gradient.
    """

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.gating_param.requires_grad_(False)

    def weights(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """The attention A of Eq 4: (B, H, N, N), rows are queries and sum to 1; `grid` as in `GPSA`."""
        grid = resolve_grid(x.shape[1], grid)
        q, k = self._split_heads(self.qk(x), 2)  # each (B, H, N, d)
        position = self.pos_proj(relative_positions(grid, x.device, at_least_float32(x))).movedim(-1, 0)  # (H, N, N)
        return (content_scores(q, k) + position).softmax(-1)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D), by the stored attention."""
        (v,) = self._split_heads(self.v(x), 1)  # (B, H, N, d)
        heads = self.weights(x, grid).to(v.dtype) @ v  # (B, H, N, d)
        return self.proj(heads.transpose(1, 2).flatten(2))


class PSAConViT(ConViT):
    """A `ConViT` whose local layers are `PSA`."""

    local_layer = PSA
