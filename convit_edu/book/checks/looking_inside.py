"""Checks for the exercises of chapter 08: looking inside."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from ...attention import GPSA
from ...locality import attention_distance, gpsa_layers, nonlocality
from ...model import ConViT
from ...positions import Grid, relative_positions
from ...train import Recipe
from .verdict import NotYet, close, diagnose, exercise, given, random_tensor, tensor


@exercise
def check_nonlocality(distance: Callable[[Tensor, Grid], Tensor]) -> None:
    """A function (A (H, N, N), grid) -> the non-locality of every head, (H,), in patches."""
    grid, A = (2, 3), random_tensor(0, 4, 6, 6).mul(2).softmax(-1)
    answer = tensor(distance(A, grid), (4,))
    dx, dy, d2 = relative_positions(grid, dtype=torch.float64).unbind(-1)

    def average(distances: Tensor, queries: int = 6) -> Tensor:
        return (A * distances).sum((1, 2)) / queries

    mistakes = {
        "divide by the number of queries: the sum runs over six of them.": average(d2.sqrt(), 1),
        "the attention is an average already: divide by the queries only, not by all pairs.": average(d2.sqrt(), 36),
        "this is the mean of the squared distance; take the root of dx² + dy² first.": average(d2),
        "take the root of each distance, not of their mean.": average(d2).sqrt(),
        "this is |dx| + |dy|; Eq 8 wants the length of the offset.": average(dx.abs() + dy.abs()),
        "this counts columns alone; a row apart is a distance, too.": average(dx.abs()),
        "rows and columns are exchanged: patch n stands in row n // columns, column n % columns.":
            average(relative_positions((3, 2), dtype=torch.float64)[..., 2].sqrt()),
        "the attention takes no part: this is the distance of uniform attention.":
            d2.sqrt().mean().expand(4),
    }  # fmt: skip
    right = attention_distance(A[None], grid)[0]
    diagnose(answer, right, mistakes, f"the first head looks {right[0]:.3f} patches far, yours {answer[0]:.3f}.")


@exercise
def check_without_class_token(drop: Callable[[Tensor], Tensor]) -> None:
    """A function (A (B, H, 1 + N, 1 + N)), class token first, -> attention among the patches, (B, H, N, N)."""
    A = random_tensor(0, 2, 3, 5, 5).mul(2).softmax(-1)
    answer = tensor(drop(A.clone()), (2, 3, 4, 4))
    patches = A[..., 1:, 1:]
    last = A[..., :-1, :-1]
    mistakes = {
        "the rows no longer sum to 1: divide each by what is left of it.": patches,
        "the class token comes first; you dropped the last patch.": last / last.sum(-1, keepdim=True),
        "the class token comes first, and the rows must sum to 1 again.": last,
        "you divide by the sum of a column; rows are queries.": patches / patches.sum(-2, keepdim=True),
        "a second softmax changes how the patches share; divide by the sum of the row.": patches.softmax(-1),
        "you shared out the class token's mass equally; that moves attention away from where it was.":
            patches + A[..., 1:, :1] / 4,
        "one sum for the whole matrix is not enough: every query has given the class token another share.":
            patches / patches.sum((-1, -2), keepdim=True) * 4,
    }  # fmt: skip
    otherwise = "the rows sum to 1, but they are not the old ones rescaled." if close(
        answer.sum(-1), torch.ones(2, 3, 4)) else "a row must sum to 1."  # fmt: skip
    diagnose(answer, patches / patches.sum(-1, keepdim=True), mistakes, otherwise)


@exercise
def check_lowest_gate(lowest_gate: Callable[..., float]) -> None:
    """A function (steps, warmup, highest, lowest) -> the lowest gate on a walk from lambda = 1 in steps of the rate."""
    recipes = [(400, 40, 2e-3, 1e-5), (1000, 100, 4e-3, 2e-5)]
    answer = torch.stack([tensor(lowest_gate(*recipe), ()) for recipe in recipes])

    def rates(steps: int, warmup: int, highest: float, lowest: float) -> Tensor:
        recipe = Recipe(steps=steps, warmup_steps=warmup, lr=highest, min_lr=lowest)
        return torch.tensor([recipe.learning_rate(step) for step in range(steps)], dtype=torch.float64)

    budget = torch.stack([rates(*recipe).sum() for recipe in recipes])
    flat = torch.tensor([steps * highest for steps, _, highest, _ in recipes], dtype=torch.float64)
    mistakes = {
        "this is the budget itself; how far down does it take the gate from lambda = 1?": budget,
        "this is lambda; the gate is its sigmoid.": 1 - budget,
        "you went up: the lowest gate is at 1 minus the budget.": (1 + budget).sigmoid(),
        "lambda starts at 1, not at 0.": (-budget).sigmoid(),
        "the gate moves by lambda: subtract inside the sigmoid.": torch.sigmoid(torch.ones(2)).double() - budget,
        "the rate is not at its highest all the time; sum what every step has.": (1 - flat).sigmoid(),
        "one step is not the training: sum the rates of all steps.":
            (1 - torch.tensor([r[2] for r in recipes], dtype=torch.float64)).sigmoid(),
    }  # fmt: skip
    right = (1 - budget).sigmoid()
    if not torch.allclose(answer, right, rtol=0, atol=2e-3):  # the last step more or less does not matter
        diagnose(answer, right, mistakes, f"for {recipes[0]} it is {right[0]:.3f}, yours {answer[0]:.3f}.")


def _local_model(seed: int = 0, local: int = 3) -> ConViT:
    """A small model in float64 whose content attention is far from uniform."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ConViT(
            img_size=12, patch_size=4, in_chans=1, num_classes=3, embed_dim=18, depth=4, num_heads=9,
            local_up_to_layer=local,
        ).double()  # fmt: skip
        for block in model.blocks:
            layer = block.attn
            torch.nn.init.normal_((layer.qk if isinstance(layer, GPSA) else layer.qkv).weight)
    return model.eval()


@exercise
@torch.no_grad()
def check_mask_content(masked: Callable[[ConViT, Tensor, int], Tensor]) -> None:
    """A function (model, images, layers) -> logits with the content masked in the first `layers` GPSA layers."""
    model, images = _local_model(), random_tensor(1, 5, 1, 12, 12)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    answer = tensor(masked(model, images, 2), (5, 3))

    def logits(*lambdas: float) -> Tensor:
        other = _local_model()
        for layer, lam in zip(gpsa_layers(other), lambdas, strict=True):
            layer.gating_param.fill_(lam)
        return other(images)

    right = logits(40, 40, 1)
    mistakes = {
        "nothing is masked. (lambda = 1 is where the gates of this model are: 0.73.)": logits(1, 1, 1),
        "you masked the position: the gate is the share of position, so content is masked at 1.": logits(-40, -40, 1),
        "lambda = 0 is a gate of one half; a gate of 1 needs a large lambda.": logits(0, 0, 1),
        "all GPSA layers are masked, not the first few.": logits(40, 40, 40),
        "one layer is masked, and two were asked for.": logits(40, 1, 1),
        "layers count from the input, and you masked the last ones.": logits(1, 40, 40),
    }
    if not torch.allclose(answer, right, rtol=0, atol=1e-3):  # lambda = 10 is enough
        diagnose(answer, right, mistakes, "sigmoid(lambda) must be near 1 in the first layers, and only there.")
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    if changed:
        raise NotYet(f"the logits are right, but {changed[0]} is left changed; put the old values back.")


@exercise
def check_is_shortcut(is_shortcut: Callable[..., bool]) -> None:
    """A function (measure, model, images) -> whether measure(model, images) -> (L,) ignores what enters a layer."""
    images = random_tensor(1, 4, 1, 12, 12)
    for local, shortcut, relative in itertools.product((3, 0), (False, True), (False, True)):
        model = _local_model(local + 1, local)
        before = {name: value.clone() for name, value in model.state_dict().items()}

        def measure(model: ConViT, images: Tensor) -> Tensor:
            found = nonlocality(model, images, shortcut=shortcut)  # noqa: B023
            return (found.relative if relative else found.distance).mean(1)  # noqa: B023

        answer = given(is_shortcut(measure, model, images))
        if bool(answer) != shortcut:
            raise NotYet(
                "you call the true measure a shortcut. Change something that a layer's true input depends on, "
                "and that the layer itself does not hold." if answer else
                "you call the shortcut true. It depends on the image, on the patch embedding and on each "
                "layer's own weights as well: change something else."
            )  # fmt: skip
        if any(not torch.equal(value, before[name]) for name, value in model.state_dict().items()):
            raise NotYet("the answer is right, but the model is left changed; put back what you changed.")
