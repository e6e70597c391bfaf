"""Checks for the exercises of chapter 02: self-attention, shape by shape."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...attention import SelfAttention
from .verdict import NotYet, close, diagnose, exercise, given, random_tensor, tell, tensor


@exercise
def check_cut_patches(cut: Callable[[Tensor, int], Tensor]) -> None:
    """A function (images (B, C, h, w), p) -> patches (B, N, C p p), row by row, pixels as in images[:, :, :p, :p]."""
    images = random_tensor(0, 2, 3, 4, 6)
    answer = tensor(cut(images, 2), (2, 6, 12))
    parts = images.reshape(2, 3, 2, 2, 3, 2)  # (B, C, G_h, p, G_w, p)

    def ordered(*axes: int) -> Tensor:
        return parts.permute(0, *axes).reshape(2, 6, 12)

    mistakes = {
        "the patches come column by column; number them row by row, as one reads.": ordered(4, 2, 1, 3, 5),
        "the colours come last in your patches; a patch is images[b, :, rows, columns], flattened: colours first.":
            ordered(2, 4, 3, 5, 1),
        "inside a patch rows and columns are exchanged.": ordered(2, 4, 1, 5, 3),
        "reshape alone keeps the pixels in their old order and cuts stripes; permute the axes before the last reshape.":
            images.reshape(2, 6, 12),
    }  # fmt: skip
    diagnose(answer, ordered(2, 4, 1, 3, 5), mistakes, "token 0 should be images[:, :, :p, :p], flattened.")


@exercise
def check_attention_cost(cost: Callable[[int, int], int]) -> None:
    """A function (N, D) -> multiplications in the matrix products of one self-attention layer."""
    for N, D in ((196, 192), (49, 72)):
        answer, expected = given(cost(N, D)), 4 * N * D**2 + 2 * N**2 * D
        tell(answer, expected, {
            "W_out is a product, too": 3 * N * D**2 + 2 * N**2 * D,
            "there are two products of size N²: Q K^T, and A times the values": 4 * N * D**2 + N**2 * D,
            "Q K^T, and A times the values, are missing": 4 * N * D**2,
            "the four maps of every token, D x D each, are missing": 2 * N**2 * D,
            "you count additions as well": 2 * expected,
            "every one of the N tokens goes through the four maps": 4 * D**2 + 2 * N**2 * D,
        }, f"for N={N}, D={D} you count {answer:,}, it is {expected:,}; ",
            "go product by product: (m, k) times (k, n) takes m k n", within=0)  # fmt: skip


@exercise
def check_multi_head(attention: Callable[[Tensor, SelfAttention], Tensor]) -> None:
    """A function (x (B, N, D), layer) -> what the layer returns, from its weights and `num_heads`."""
    B, N, D, H = 2, 5, 6, 3
    layer = SelfAttention(D, H).double()
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.copy_(random_tensor(seed, *parameter.shape))
        x = random_tensor(9, B, N, D)
        answer = tensor(attention(x, layer), (B, N, D))
        qkv = layer.qkv(x)

        def finish(q: Tensor, k: Tensor, v: Tensor, scale: float = (D // H) ** -0.5, dim: int = -1) -> Tensor:
            return (scale * q @ k.mT).softmax(dim) @ v  # (B, H, N, d)

        def joined(heads: Tensor) -> Tensor:
            return heads.transpose(1, 2).reshape(B, N, D)

        q, k, v = qkv.reshape(B, N, 3, H, D // H).permute(2, 0, 3, 1, 4)
        heads = finish(q, k, v)
        whole = finish(*(part[:, None] for part in qkv.chunk(3, dim=-1)), scale=D**-0.5)[:, 0]
        mistakes = {
            "W_out and its bias are missing: the answer is the heads side by side.": joined(heads),
            "the bias of W_out is missing.": layer.proj(joined(heads)) - layer.proj.bias,
            "the scores are not divided by sqrt(d).": layer.proj(joined(finish(q, k, v, 1.0))),
            "you divide by sqrt(D); a head's queries and keys have width d = D / H.":
                layer.proj(joined(finish(q, k, v, D**-0.5))),
            "you divide by d, not by its root.": layer.proj(joined(finish(q, k, v, H / D))),
            "your softmax runs over queries; it must run over keys, the last axis.":
                layer.proj(joined(finish(q, k, v, dim=-2))),
            "queries and keys are exchanged.": layer.proj(joined(finish(k, q, v))),
            "the heads (B, H, N, d) are reshaped without moving H beside d first: tokens get mixed up.":
                layer.proj(heads.reshape(B, N, D)),
            "this is one head of width D; split D into H heads before the scores.": layer.proj(whole),
            "qkv holds all queries, then all keys, then all values: split 3 before H.":
                layer.proj(joined(finish(*qkv.reshape(B, N, H, 3, D // H).permute(3, 0, 2, 1, 4)))),
        }  # fmt: skip
        diagnose(answer, layer(x), mistakes, "compare each head with the loop of this chapter, one after the other.")


@exercise
def check_look_right(maps: Callable[[tuple[int, int]], tuple[Tensor, Tensor]]) -> None:
    """A function (grid) -> W_qry, W_key (N, N) by which a head attends to the right neighbour, if X is the identity."""
    for grid in ((3, 3), (2, 4)):
        N = grid[0] * grid[1]
        answer = zip(given(maps(grid)), ("W_qry", "W_key"), strict=True)
        W_qry, W_key = (tensor(W, (N, N), name) for W, name in answer)
        A = (W_qry @ W_key.T / N**0.5).softmax(-1)  # (N, N), for X = identity and d = N
        if not A.isfinite().all():
            raise NotYet("some attention is not a number: choose large scores, not infinite ones.")
        queries = [i for i in range(N) if i % grid[1] < grid[1] - 1]  # the last column has no right neighbour

        def share(offset: int, A: Tensor = A, queries: list[int] = queries, N: int = N) -> float:
            """The least attention that a query pays to the token `offset` after it."""
            return min((A[i, i + offset].item() for i in queries if 0 <= i + offset < N), default=0.0)

        if share(1) > 0.9:
            continue
        what = f"on the {grid[0]} x {grid[1]} grid"
        if close(A, torch.full((N, N), 1 / N)):
            raise NotYet(f"{what} the attention is uniform: all scores of a query are equal.")
        if all(A[i].argmax() == i + 1 for i in queries):
            raise NotYet(f"{what} the right neighbour gets most, but only {share(1):.2f}; the scores must be larger.")
        inner = [i for i in queries if i % grid[1] > 0]
        if all(A[i, i - 1] > 0.5 for i in inner):
            raise NotYet(f"{what} the head looks to the left: exchange queries and keys.")
        if share(0) > 0.5:
            raise NotYet(f"{what} every token attends to itself.")
        if all(A[i, i + grid[1]] > 0.5 for i in queries if i + grid[1] < N):
            raise NotYet(f"{what} the head looks down: tokens are numbered row by row, the right neighbour is i + 1.")
        raise NotYet(f"{what} the right neighbour gets only {share(1):.2f} of the attention of some token.")
