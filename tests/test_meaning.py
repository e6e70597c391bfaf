"""What the recorded numbers mean: each on tiny networks and planted images in which the answer is known."""

import pytest
import torch
from torch import nn

from convit_edu import create_model
from convit_edu.beyond.recast import PatchCNN, WideConViT
from convit_edu.data import Dataset
from convit_edu.lab import run as worker
from convit_edu.lab.run_config import RunConfig
from convit_edu.locality import forced_gates, gates, gpsa_layers, uniform_nonlocality
from convit_edu.train import History, Recipe

M, TESTS = 200, 40  # every image holds its number: training images 0 to 199, test images 200 to 239
SHAPE = dict(img_size=6, patch_size=2, in_chans=1, num_classes=2, embed_dim=18)
MODEL = dict(**SHAPE, depth=4, num_heads=9, local_up_to_layer=3)  # a grid of 3 x 3
RECIPE = dict(steps=2, batch_size=8, lr=1e-3, warmup_steps=1, evaluations=1)


def planted():
    """Two classes by turns; the number of an image in its first pixel, and noise elsewhere. Mean 0, deviation 1."""
    pixels = torch.randint(256, (M + TESTS, 1, 6, 6), generator=torch.Generator().manual_seed(0)).byte()
    pixels[:, 0, 0, 0] = torch.arange(M + TESTS)
    labels = torch.arange(M + TESTS) % 2
    one = torch.ones(1)
    return Dataset("planted", pixels[:M], labels[:M], pixels[M:], labels[M:], ("even", "odd"), 0 * one, one)


def numbers(images):
    return set(images[:, 0, 0, 0].tolist())


class Says(nn.Module):
    """A model that finds each image's number in its first pixel and says what it is told to."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return torch.stack([torch.eye(2)[self.answer(number)] for number in (255 * x[:, 0, 0, 0]).round().int()])


@pytest.fixture(autouse=True)
def on_planted_images(monkeypatch):
    monkeypatch.setattr(worker, "dataset", lambda name, root: planted())
    worker.model_before.cache_clear()
    yield
    worker.model_before.cache_clear()


def config_of(recipe=(), **config):
    return RunConfig(**{"data": "planted", "model": MODEL} | config, recipe=Recipe(**RECIPE | dict(recipe)))


def run(seed=0, **config):
    return worker.perform(config_of(**config), seed, "cpu", None, None)


@pytest.fixture
def handed(monkeypatch):
    """What `perform` hands to training: a list of (model, images, recipe). Nothing is trained."""
    calls = []

    def train(model, images, recipe, *args, **options):
        calls.append((model, images, recipe))
        return History(loss=[float(k) for k in range(recipe.steps)], accuracy={1: 10.0, recipe.steps: 60.0}, seconds=2)

    monkeypatch.setattr(worker, "train", train)
    return calls


# --- which images, which seed


def test_settings_are_chosen_on_training_images_held_out_and_never_on_test_images(handed):
    aside = []
    for seed in (0, 1, 2):
        run(seed, held_out=True, fraction=0.2)
        images = handed[-1][1]
        tests, trained = numbers(images.test_images), numbers(images.train_images)
        assert len(tests) == M / 10 and len(trained) == 36
        assert max(tests) < M and not tests & trained
        aside.append(tests)
    assert aside[0] == aside[1] == aside[2]  # the same tenth for every seed
    run(0)
    assert numbers(handed[-1][1].test_images) == set(range(M, M + TESTS))


def test_every_seed_has_its_own_images_weights_and_order(handed, monkeypatch):
    for seed in (0, 1, 2, 1):
        run(seed, fraction=0.1, freeze="gate")
    (_, _, one, again) = handed
    assert len({frozenset(numbers(images.train_images)) for _, images, _ in handed}) == 3
    assert numbers(one[1].train_images) != numbers(handed[1][1].train_images) == numbers(again[1].train_images)
    weights = [model.blocks[3].mlp.fc1.weight for model, _, _ in handed]
    assert torch.equal(weights[1], weights[3]) and not torch.equal(weights[0], weights[1])
    assert [recipe.seed for _, _, recipe in handed] == [0, 1, 2, 1]


def test_the_order_of_the_images_follows_the_seed_too(monkeypatch):
    plain = RunConfig.build
    monkeypatch.setattr(RunConfig, "build", lambda config, seed: plain(config, 0))  # the same network for all
    losses = [run(seed)["history"]["loss"] for seed in (0, 1, 1)]
    assert losses[0] != losses[1] == losses[2]


def test_a_teacher_and_a_start_are_trained_on_the_runs_own_seed_and_images(handed, monkeypatch):
    monkeypatch.setattr(worker, "advice", lambda *_: {})
    teacher = config_of(fraction=0.1, network="CNN", model=dict(in_chans=1, num_classes=2, width=4))
    for seed in (0, 1):
        run(seed, fraction=0.1, teacher=teacher)
    (one, first), (other, second) = (handed[:2], handed[2:])
    for before, after, seed in ((one, first, 0), (other, second, 1)):
        assert before[2].seed == after[2].seed == seed
        assert numbers(before[1].train_images) == numbers(after[1].train_images)
    assert numbers(first[1].train_images) != numbers(second[1].train_images)
    assert not torch.equal(one[0].head.weight, other[0].head.weight)


# --- what is measured


def seen(model):
    """Of every GPSA layer: does its attention hear the content, does it hear the position?"""
    torch.manual_seed(0)
    x, turn = torch.randn(1, 9, 18), torch.randperm(9)
    found = []
    for layer in gpsa_layers(model):
        A = layer.weights(x, model.grid)
        content = not torch.equal(A, layer.weights(x.flip(2), model.grid))
        turned = layer.weights(x[:, turn], model.grid)
        position = not torch.allclose(turned, A[:, :, turn][..., turn], atol=1e-6)
        found.append((content, position))
    return found


def local_model():
    torch.manual_seed(1)
    model = create_model("convit_mini_28", 0, **MODEL)
    with torch.no_grad():
        for layer in gpsa_layers(model):
            layer.qk.weight.normal_()
    return model


def test_masking_takes_content_or_position_from_the_first_layer_then_the_first_two(monkeypatch):
    model, both, deaf, blind = local_model(), (True, True), (False, True), (True, False)
    before = [seen(model), model.pos_embed.clone()]
    monkeypatch.setattr(worker, "evaluate", lambda model, *_: (seen(model), bool(model.pos_embed.any())))
    found = worker.masked_accuracy(model, planted(), "cpu")
    assert before[0] == seen(model) == [both] * 3 and torch.equal(before[1], model.pos_embed)  # all put back
    assert found == {
        "absolute positions": ([both] * 3, False),
        "content": [([deaf] * n + [both] * (3 - n), True) for n in (1, 2, 3)],
        "position": [([blind] * n + [both] * (3 - n), True) for n in (1, 2, 3)],
    }
    with forced_gates(model, 0.25, 2):
        assert gates(model)[:2].unique().item() == pytest.approx(0.25) and gates(model)[2].min() > 0.7


def test_the_true_metric_sees_the_position_embeddings_and_the_shortcut_does_not():
    """Planted: tokens are their position embeddings alone, and attend to their like. The shortcut sees all alike."""
    model = create_model("convit_mini_28", 0, **MODEL | dict(local_up_to_layer=0, num_heads=1, depth=2))
    with torch.no_grad():
        for p in (*model.patch_embed.parameters(), *model.blocks[0].mlp.fc2.parameters(), model.cls_token):
            p.zero_()
        model.pos_embed.copy_(torch.eye(9, 18)[None])
        for block in model.blocks:
            block.attn.qkv.weight.copy_(10 * torch.eye(18).repeat(3, 1) * torch.tensor([1, 1, 0]).repeat_interleave(18)[
                :, None])  # fmt: skip
    found = worker.both_metrics(model, planted())
    assert set(found) == {"true", "shortcut"}
    assert all(head < 1e-4 for layer in found["true"] for head in layer)
    assert all(head == pytest.approx(uniform_nonlocality((3, 3)), abs=1e-4) for layer in found["shortcut"]
               for head in layer)  # fmt: skip


def test_what_is_probed_during_training_stands_at_its_step_and_head_by_head():
    found = run(probe=True, recipe=dict(steps=4, evaluations=2, lr=0.5, warmup_steps=0))["history"]
    fresh = config_of().build(0)
    start = worker.nonlocality(fresh, worker.probe_images(planted()))
    assert list(found["gates"]) == list(found["nonlocality"]) == [0, 2, 4] and list(found["accuracy"]) == [2, 4]
    for what, value in (("nonlocality", start.distance), ("class_mass", start.class_mass), ("gates", gates(fresh))):
        assert torch.allclose(torch.tensor(found[what][0]), value.float(), atol=1e-5)
    assert found["gates"][0] != found["gates"][2] != found["gates"][4]
    probe = worker.probe_images(planted())
    assert torch.equal(probe, planted().normalize(planted().test_images))  # of test images, all where they are few


def test_the_teachers_advice_is_right_as_often_as_is_planted():
    """Right on all training images and three quarters of the test images; the student follows it on half of these."""
    teacher = Says(lambda n: n % 2 if n < M or n >= M + TESTS // 4 else 1 - n % 2)
    student = Says(lambda n: teacher.answer(n) if n < M + TESTS // 2 else 1 - teacher.answer(n))
    found = worker.advice(student, teacher, planted())
    assert found == {"accuracy": 75.0, "on training images": 100.0, "agreement": 50.0}


def test_a_recast_run_starts_from_the_trained_network_and_measures_it_on_the_way(handed, monkeypatch):
    def where(model, *_):
        local = isinstance(model, WideConViT)
        return (type(model).__name__, round(gates(model).mean().item(), 2) if local else None)

    monkeypatch.setattr(worker, "evaluate", where)
    cnn = config_of(network="PatchCNN", model=SHAPE | {"depth": 2})
    wide = MODEL | {"depth": 2, "local_up_to_layer": 2, "value_dim": 18}
    result = run(1, network="WideConViT", model=wide, start=cnn, recast={"strength": 8.0, "gate": 0.73})["result"]
    assert result["start"] == ("PatchCNN", None)
    assert result["recast"] == ("WideConViT", 1.0) and result["gates lowered"] == ("WideConViT", 0.73)
    (first, _, before), (model, _, after) = handed
    assert isinstance(first, PatchCNN) and isinstance(model, WideConViT) and (before.seed, after.seed) == (1, 1)
    for new, old in zip(model.blocks, first.blocks, strict=True):
        assert torch.equal(new.mlp.fc1.weight, old.mlp.fc1.weight)
    result = run(1, network="PatchCNN", model=cnn.model, start=cnn)["result"]  # trained on as it is
    assert result["start"] == ("PatchCNN", None) and "recast" not in result and handed[-1][0] is not first
    assert torch.equal(handed[-1][0].head.weight, first.head.weight)


def test_the_recorded_loss_is_the_mean_of_equal_stretches_and_the_accuracy_the_last(handed):
    answer = run(recipe=dict(steps=120))
    assert answer["history"]["loss"] == [3 * k + 1.0 for k in range(worker.LOSS_POINTS)]  # of 0, 1, 2; of 3, 4, 5; ...
    assert answer["result"]["accuracy"] == 60.0 and answer["history"]["accuracy"] == {1: 10.0, 120: 60.0}
    assert answer["result"]["parameters"] == sum(p.numel() for p in handed[0][0].parameters())
    assert answer["meta"]["seconds"] == 2 and answer["meta"]["data"] == planted().checksum()
