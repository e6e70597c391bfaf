"""The checks of chapter 08: the right answer passes, typical wrong ones are told what is wrong."""

import contextlib

import pytest
import torch

from convit_edu.book import checks
from convit_edu.locality import gpsa_layers, masked_positions
from convit_edu.train import Recipe


def said(capsys, check, answer):
    check(answer)
    return capsys.readouterr().out.strip()


def nonlocality(A, grid, power=0.5, norm=2, divide=None):
    rows, columns = grid
    place = torch.tensor([(n // columns, n % columns) for n in range(rows * columns)], dtype=torch.float64)
    delta = place[None] - place[:, None]  # (N, N, 2)
    distances = delta.abs().sum(-1) if norm == 1 else delta.square().sum(-1) ** power
    return (A * distances).sum((1, 2)) / (divide or rows * columns)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (nonlocality, "Correct."),
        (lambda A, g: nonlocality(A, g, divide=1), "divide by the number of queries"),
        (lambda A, g: nonlocality(A, g, divide=36), "divide by the queries only"),
        (lambda A, g: nonlocality(A, g, power=1), "the mean of the squared distance"),
        (lambda A, g: nonlocality(A, g, power=1).sqrt(), "the root of each distance"),
        (lambda A, g: nonlocality(A, g, norm=1), "the length of the offset"),
        (lambda A, g: nonlocality(A, g[::-1]), "rows and columns are exchanged"),
        (lambda A, g: nonlocality(torch.full_like(A, 1 / 6), g), "the attention takes no part"),
        (lambda A, g: 2 * nonlocality(A, g), "the first head looks"),
        (lambda A, g: nonlocality(A, g).mean(), "your answer has shape ()"),
        (lambda A, g: None, "does the function return something?"),
    ],
)
def test_nonlocality(capsys, answer, message):
    assert message in said(capsys, checks.check_nonlocality, answer)


def drop(A, token=0, dim=-1):
    keep = [n for n in range(A.shape[-1]) if n != token % A.shape[-1]]
    patches = A[..., keep, :][..., keep]
    return patches / patches.sum(dim, keepdim=True)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (drop, "Correct."),
        (lambda A: A[..., 1:, 1:], "the rows no longer sum to 1"),
        (lambda A: drop(A, token=-1), "you dropped the last patch"),
        (lambda A: A[..., :-1, :-1], "and the rows must sum to 1 again"),
        (lambda A: drop(A, dim=-2), "you divide by the sum of a column"),
        (lambda A: drop(A, dim=(-2, -1)) * 4, "one sum for the whole matrix"),
        (lambda A: A[..., 1:, 1:].softmax(-1), "a second softmax"),
        (lambda A: A[..., 1:, 1:] + A[..., 1:, :1] / 4, "shared out the class token's mass equally"),
        (lambda A: drop(A).flip(-1), "not the old ones rescaled"),
        (lambda A: drop(A) * 2, "a row must sum to 1"),
        (lambda A: A[..., :, 1:], "has shape (2, 3, 5, 4), expected (2, 3, 4, 4)"),
    ],
)
def test_without_class_token(capsys, answer, message):
    assert message in said(capsys, checks.check_without_class_token, answer)


def budget(steps, warmup, highest, lowest):
    recipe = Recipe(steps=steps, warmup_steps=warmup, lr=highest, min_lr=lowest)
    return sum(recipe.learning_rate(step) for step in range(steps))


def sigmoid(x):
    return torch.tensor(x, dtype=torch.float64).sigmoid()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda *r: sigmoid(1 - budget(*r)), "Correct."),
        (lambda *r: sigmoid(1 - budget(*r) + r[3]), "Correct."),  # the last step more or less
        (lambda *r: budget(*r), "this is the budget itself"),
        (lambda *r: 1 - budget(*r), "this is lambda"),
        (lambda *r: sigmoid(1 + budget(*r)), "you went up"),
        (lambda *r: sigmoid(-budget(*r)), "lambda starts at 1"),
        (lambda *r: sigmoid(1.0) - budget(*r), "subtract inside the sigmoid"),
        (lambda *r: sigmoid(1 - r[0] * r[2]), "not at its highest all the time"),
        (lambda *r: sigmoid(1 - r[2]), "one step is not the training"),
        (lambda *r: 0.5, "yours 0.500"),
        (lambda *r: None, "does the function return something?"),
    ],
)
def test_lowest_gate(capsys, answer, message):
    assert message in said(capsys, checks.check_lowest_gate, answer)


def mask(model, images, layers, lam=1000.0, keep=False, start=0):
    found = gpsa_layers(model)[start:][:layers]
    old = [layer.gating_param.clone() for layer in found]
    for layer in found:
        layer.gating_param.fill_(lam)
    logits = model(images)
    for layer, value in zip(found, old, strict=True):
        if not keep:
            layer.gating_param.copy_(value)
    return logits


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (mask, "Correct."),
        (lambda *a: mask(*a, lam=12.0), "Correct."),
        (lambda *a: mask(*a, lam=1.0), "nothing is masked"),
        (lambda *a: mask(*a, lam=-1000.0), "you masked the position"),
        (lambda *a: mask(*a, lam=0.0), "lambda = 0 is a gate of one half"),
        (lambda m, x, n: mask(m, x, 3), "all GPSA layers are masked"),
        (lambda m, x, n: mask(m, x, 1), "one layer is masked"),
        (lambda *a: mask(*a, start=1), "you masked the last ones"),
        (lambda *a: mask(*a, lam=2.0), "only there"),
        (lambda *a: mask(*a, keep=True), "blocks.0.attn.gating_param is left changed"),
        (lambda *a: None, "does the function return something?"),
    ],
)
def test_mask_content(capsys, answer, message):
    assert message in said(capsys, checks.check_mask_content, answer)


def without(context):
    def is_shortcut(measure, model, images):
        before = measure(model, images)
        with context(model):
            return torch.equal(measure(model, images), before)

    return is_shortcut


@contextlib.contextmanager
def doubled(*parameters, keep=False):
    for parameter in parameters:
        parameter.data.mul_(2)
    yield
    for parameter in parameters:
        parameter.data.div_(1 if keep else 2)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (without(masked_positions), "Correct."),
        (without(lambda m: doubled(m.blocks[0].mlp.fc1.weight)), "Correct."),
        (without(lambda m: doubled(m.patch_embed.proj.weight)), "you call the shortcut true"),
        (without(lambda m: doubled(*m.blocks.parameters())), "you call the shortcut true"),
        (without(lambda m: doubled(m.head.weight)), "you call the true measure a shortcut"),
        (without(lambda m: doubled(m.pos_embed, keep=True)), "the model is left changed"),
        (lambda *a: True, "you call the true measure a shortcut"),
        (lambda *a: None, "the function returned None"),
    ],
)
def test_is_shortcut(capsys, answer, message):
    assert message in said(capsys, checks.check_is_shortcut, answer)
