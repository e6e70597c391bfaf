"""The recipe, exact resume, and what happens when training goes wrong."""

import dataclasses
import itertools
import math
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convit_edu import create_model, data
from convit_edu.__main__ import main
from convit_edu.augment import augment
from convit_edu.beyond.cnn import create_cnn
from convit_edu.data import batches, seeded
from convit_edu.evaluation import usable_device
from convit_edu.saving import weights
from convit_edu.train import Recipe, evaluate, parameter_groups, pick_device, train

RECIPE = Recipe(steps=12, batch_size=16, warmup_steps=3, evaluations=3)
SHORT = dataclasses.replace(RECIPE, steps=2, evaluations=1)


@pytest.fixture(scope="module")
def images():
    fashion = data.load("fashion_mnist_5k").subset(size=50)
    return dataclasses.replace(fashion, test_images=fashion.test_images[:200], test_labels=fashion.test_labels[:200])


def fresh(**overrides):
    """A small ConViT with stochastic depth, so that each step draws random numbers."""
    sizes = {"embed_dim": 36, "depth": 2, "local_up_to_layer": 1, "drop_path_rate": 0.2}
    return create_model("convit_mini_28", **{"seed": 0} | sizes | overrides)


def before_step(model, number, do):
    """The same model, which calls `do` when a training step is about to begin after so many."""
    steps = itertools.count()

    def hook(module, _):
        if module.training and next(steps) == number:
            do(module)

    model.register_forward_pre_hook(hook)
    return model


def press_ctrl_c(_):
    raise KeyboardInterrupt


def head_norms(model, step):
    return {"head norms": [p.detach().norm().item() for p in model.head.parameters()], "step": step}


def test_learning_rate_warms_up_and_falls_along_a_cosine():
    recipe = Recipe(steps=110, warmup_steps=10, lr=1.0, min_lr=0.1)
    rates = [recipe.learning_rate(step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates[10] == 1.0 and rates[60] == pytest.approx(0.55) and rates[109] == pytest.approx(0.1, abs=1e-3)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_only_matrices_decay():
    model = create_model("convit_mini_28")
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, spared = parameter_groups(model, 0.05)
    assert decayed["weight_decay"] == 0.05 and spared["weight_decay"] == 0.0
    decayed, spared = ({names[id(p)] for p in group["params"]} for group in (decayed, spared))
    assert decayed | spared == set(names.values()) and not decayed & spared
    assert {"patch_embed.proj.weight", "blocks.0.attn.pos_proj.weight", "head.weight"} <= decayed
    assert {"cls_token", "pos_embed", "blocks.0.attn.gating_param", "blocks.0.norm1.weight", "head.bias"} <= spared


def test_gates_take_their_own_rate_and_nothing_else_does(images):
    assert parameter_groups(fresh(), 0.05, gate_speed=20.0)[2]["weight_decay"] == 0.0
    # Adam's first step moves every number by its rate: at the start, gates move by 20 times the rate of the rest.
    one = dataclasses.replace(RECIPE, steps=1, warmup_steps=0, evaluations=1, lr=1e-3, weight_decay=0.0)
    moved = {}
    for speed in (None, 20.0):
        model, start = fresh(), fresh()
        train(model, images, dataclasses.replace(one, gate_speed=speed))
        pairs = list(zip(model.named_parameters(), start.parameters(), strict=True))
        moved[speed] = {name: (p - q).abs().max().item() for (name, p), q in pairs}
    for name, far in moved[20.0].items():
        times = 20 if name.endswith("gating_param") else 1
        assert far == pytest.approx(times * moved[None][name], rel=1e-3)
    with pytest.raises(ValueError, match="gate_speed is for a model with gates"):
        train(create_model("convit_mini_28", local_up_to_layer=0), images, dataclasses.replace(one, gate_speed=2.0))


def test_history_and_evaluation(images):
    model = fresh()
    history = train(model, images, RECIPE)
    assert len(history.loss) == 12 and list(history.accuracy) == [4, 8, 12] and history.seconds > 0
    assert all(map(math.isfinite, history.loss))
    assert history.final_accuracy == history.accuracy[12] == evaluate(model, images)
    model.eval()
    predicted = model(images.normalize(images.test_images)).argmax(1)
    by_hand = 100 * (predicted == images.test_labels).float().mean().item()
    assert evaluate(model, images) == pytest.approx(by_hand) and not model.training


@pytest.mark.parametrize("options", [{}, {"precision": "bfloat16"}])
def test_a_run_is_what_its_steps_by_hand_are_to_the_bit(images, options):
    recipe = dataclasses.replace(RECIPE, steps=4, evaluations=1, seed=5, **options)
    state = torch.get_rng_state()
    history = train(fresh(), images, recipe, device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    model, order = fresh().train(), batches(50, 16, recipe.seed)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-3)
    for step in range(4):
        index = next(order)
        batch = images.normalize(augment(images.train_images[index], seeded(5, "augment", step)))
        targets = images.train_labels[index]
        torch.manual_seed(seeded(5, "dropout", step).initial_seed())
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            logits = model(batch)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=0.1)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.item() == history.loss[step]


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [5, 8])
def test_a_stopped_run_resumes_to_the_same_result(images, tmp_path, stop_after):
    """Stopped between checkpoints (after 4 and 8 steps) or at one, as by Ctrl-C."""
    whole_model, path = fresh(), tmp_path / "run" / "checkpoint.pt"
    whole = train(whole_model, images, RECIPE, measure=head_norms)
    with pytest.raises(KeyboardInterrupt):
        stopping = before_step(fresh(), stop_after, press_ctrl_c)
        train(stopping, images, RECIPE, checkpoint=path, measure=head_norms)
    for _ in range(2):  # the second time it is finished, and is not run again
        model = fresh()
        resumed = train(model, images, RECIPE, checkpoint=path, measure=head_norms)
        assert resumed.loss == whole.loss and resumed.accuracy == whole.accuracy
        assert resumed.measured == whole.measured
        for name, value in whole_model.state_dict().items():
            assert torch.equal(value, model.state_dict()[name]), name
    assert whole.measured["step"] == {0: 0, 4: 4, 8: 8, 12: 12}  # at the start and at every evaluation
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


def test_a_loss_of_ones_own_sees_what_the_model_sees_and_is_what_is_minimised(images):
    seen, recipe = [], dataclasses.replace(RECIPE, steps=4, evaluations=1, precision="bfloat16")
    model = fresh()
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]) if module.training else None)

    def halved(batch, logits, targets):
        assert torch.equal(batch, seen[-1]) and logits.dtype == torch.float32 and targets.shape == (16,)
        return F.cross_entropy(logits, targets, label_smoothing=0.1) / 2

    history, plain = train(model, images, recipe, "cpu", loss=halved), train(fresh(), images, recipe, "cpu")
    assert history.loss[0] == plain.loss[0] / 2 and len(seen) == 4


@pytest.mark.slow
def test_a_checkpoint_older_than_some_settings_still_loads(images, tmp_path):
    path, whole = tmp_path / "checkpoint.pt", train(fresh(), images, RECIPE)
    train(fresh(), images, RECIPE, checkpoint=path)
    state = torch.load(path, weights_only=True)
    del state["history"]["measured"]
    assert state["identity"].pop("recipe.gate_speed") is None
    del state["identity"]["recipe.crop_padding"]  # whose default is not None
    torch.save(state, path)
    assert train(fresh(), images, RECIPE, checkpoint=path).loss == whole.loss
    with pytest.raises(ValueError, match=r"it differs in recipe.gate_speed"):
        train(fresh(), images, dataclasses.replace(RECIPE, gate_speed=2.0), checkpoint=path)


def test_a_checkpoint_of_another_run_is_refused_and_says_where_it_differs(images, tmp_path):
    path = tmp_path / "checkpoint.pt"
    train(fresh(), images, SHORT, checkpoint=path)
    kept = path.read_bytes()
    other_mean = dataclasses.replace(images, mean=images.mean + 0.1)
    for model, data_set, recipe, options, differing in (
        (fresh(seed=1), images, SHORT, {}, "initial weights"),  # a loop over seeds
        (fresh(depth=3), images, SHORT, {}, "model.depth, initial weights"),
        (fresh().requires_grad_(False), images, SHORT, {}, "frozen parameters"),
        (fresh(), images, dataclasses.replace(SHORT, lr=2e-3, seed=1), {}, "recipe.lr, recipe.seed"),
        (fresh(), images.subset(size=40, seed=1), SHORT, {}, "data.checksum"),
        (fresh(), other_mean, SHORT, {}, "data.mean"),
        (fresh(), dataclasses.replace(images, std=images.std * 2), SHORT, {}, "data.std"),
        (fresh(), dataclasses.replace(images, classes=images.classes[::-1]), SHORT, {}, "data.classes"),
        (fresh(), images, SHORT, {"loss": F.cross_entropy}, "loss"),
        (fresh(), images, SHORT, {"measure": head_norms}, "measure"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"(it differs in {differing})")):
            train(model, data_set, recipe, checkpoint=path, **options)
    for options in ({"loss": lambda images, logits, targets: logits.sum()}, {"measure": partial(head_norms)}):
        with pytest.raises(ValueError, match="attribute `identity`"):  # it could not be told from others
            train(fresh(), images, SHORT, checkpoint=path, **options)
    assert path.read_bytes() == kept


def test_a_file_that_cannot_be_opened_or_read_is_left_alone_and_so_is_the_advice(images, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    whole = train(fresh(), images, SHORT, checkpoint=path)
    kept = path.read_bytes()

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(PermissionError, match=r"checkpoint\.pt.*Permission denied") as found:
            train(fresh(), images, SHORT, checkpoint=path)
    assert "delete" not in str(found.value)
    assert train(fresh(), images, SHORT, checkpoint=path).loss == whole.loss
    torch.save({"model": {}}, tmp_path / "other.pt")
    for content in (kept[:1000], b"x" * 1000, (tmp_path / "other.pt").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoint\.pt is not a readable checkpoint") as found:
            train(fresh(), images, SHORT, checkpoint=path)
        assert "delete" not in str(found.value) and path.read_bytes() == content


def in_parts(model):
    model.blocks[1] = torch.compile(model.blocks[1], backend="eager")
    return model


WRAPPERS = {"compiled": partial(torch.compile, backend="eager"), "parallel": torch.nn.DataParallel, "parts": in_parts}


@pytest.mark.slow
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapped_model_saves_plain_names_and_goes_on_as_a_plain_one(images, tmp_path, wrap):
    path, recipe = tmp_path / "checkpoint.pt", dataclasses.replace(RECIPE, steps=4, evaluations=2)
    model = fresh()
    whole = train(model, images, recipe, "cpu")
    with pytest.raises(KeyboardInterrupt):
        train(wrap(before_step(fresh(), 3, press_ctrl_c)), images, recipe, "cpu", path)
    saved = torch.load(path, weights_only=True)
    assert saved["step"] == 2 and saved["model"].keys() == model.state_dict().keys()
    plain, wrapped = fresh(), wrap(fresh())
    histories = [train(each, images, recipe, "cpu", path) for each in (plain, wrapped)]
    assert all(history.loss == whole.loss for history in histories)
    for name, value in model.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
        assert torch.equal(value, weights(wrapped)[name]), name


def test_the_path_is_tried_before_the_work(images, tmp_path, monkeypatch):
    (tmp_path / "a file").touch()
    model = before_step(fresh(), 0, lambda _: pytest.fail("a step was done"))
    for path in (tmp_path, tmp_path / "a file" / "run.pt"):
        with pytest.raises(OSError, match=re.escape(str(path))):
            train(model, images, RECIPE, checkpoint=path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    train(fresh(), images, dataclasses.replace(RECIPE, steps=1, evaluations=1), checkpoint="~/runs/one.pt")
    assert [file.name for file in (tmp_path / "runs").iterdir()] == ["one.pt"]


def test_one_path_has_one_writer(images, tmp_path):
    path, refused = tmp_path / "run.pt", []
    (tmp_path / "run.pt.lock").touch()  # as one who was killed leaves it; the system has let go of it

    def second(model, step):
        with pytest.raises(OSError, match="another run"):
            train(fresh(), images, SHORT, checkpoint=path)
        refused.append(step)
        return {}

    second.identity = "a second run"
    for _ in range(2):  # the first has let go when the next begins
        train(fresh(), images, SHORT, checkpoint=path, measure=second)
    assert refused == [0, 2]


def test_the_seconds_of_an_interrupted_run_are_those_of_all_its_parts(images, tmp_path, monkeypatch):
    clock = SimpleNamespace(now=1e6)
    monkeypatch.setattr("convit_edu.train.time", SimpleNamespace(perf_counter=lambda: clock.now))

    def timed(model):
        def hook(module, inputs):
            clock.now += 1 if module.training else 5 * (len(inputs[0]) == 200)  # a step; the whole test

        model.register_forward_pre_hook(hook)
        return model

    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        train(timed(before_step(fresh(), 10, press_ctrl_c)), images, RECIPE, "cpu", path)
    assert torch.load(path, weights_only=True)["history"]["seconds"] == 8 + 2 * 5
    clock.now += 1000  # between the parts
    assert train(timed(fresh()), images, RECIPE, "cpu", path).seconds == 12 + 3 * 5


def poisoned_gradient(number):
    """A model whose gradient is NaN in one step: a loss that is finite, and weights that are not."""
    model, steps = fresh(), itertools.count(1)

    def hook(bias):
        if next(steps) == number:
            bias.grad.fill_(math.nan)

    model.head.bias.register_post_accumulate_grad_hook(hook)
    return model


@pytest.mark.slow
def test_weights_that_are_not_finite_are_never_kept(images, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    for step, words in ((6, "became nan at step 7"), (8, "after step 8")):  # the loss tells; only the test can tell
        with pytest.raises(FloatingPointError, match=rf"{words} of 12; the last good checkpoint is kept in .*pt"):
            train(poisoned_gradient(step), images, RECIPE, checkpoint=path)
        saved = torch.load(path, weights_only=True)
        assert saved["step"] == 4 and all(value.isfinite().all() for value in saved["model"].values())
        path.unlink()
    clock = itertools.count(0, 100)  # more than a minute at every look: a checkpoint is due after step 10
    monkeypatch.setattr("convit_edu.train.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    once = dataclasses.replace(RECIPE, evaluations=1)
    with pytest.raises(FloatingPointError, match="after step 10 of 12; no checkpoint was kept"):
        train(poisoned_gradient(10), images, once, checkpoint=path)
    assert not path.exists()
    with pytest.raises(KeyboardInterrupt):
        train(before_step(fresh(), 11, press_ctrl_c), images, once, checkpoint=path)
    assert torch.load(path, weights_only=True)["step"] == 10  # it was due


def test_no_accuracy_is_made_of_logits_that_are_not_finite(images):
    model = fresh().train()
    model.head.bias.data[3] = math.inf
    with pytest.raises(FloatingPointError, match="not finite"):
        evaluate(model, images, "cpu")
    with pytest.raises(FloatingPointError, match="not finite"):
        train(before_step(model, 0, lambda _: pytest.fail("a step was done")), images, RECIPE)


def test_evaluation_leaves_every_part_in_its_mode_whatever_happens(images):
    model = fresh().train()
    model.blocks[0].eval()  # as one does with what is frozen
    modes = [part.training for part in model.modules()]

    def stop(module, _):
        assert not module.training
        raise KeyboardInterrupt

    model.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, images, "cpu")
    assert [part.training for part in model.modules()] == modes and len(set(modes)) == 2


def test_model_and_data_that_do_not_fit_are_refused_before_the_first_step(images, tmp_path):
    for model, words in (
        (fresh(num_classes=9), ["10 classes", "(100, 9)", "num_classes=10"]),
        (fresh(in_chans=3), ["(1, 28, 28)", "3, 28, 28"]),
        (create_cnn(0, in_chans=3, width=4), ["(1, 28, 28)", "3 channels"]),
        (torch.nn.Flatten(), ["10 classes", "(100, 784)"]),
    ):
        before_step(model, 0, lambda _: pytest.fail("a step was done"))
        with pytest.raises(ValueError) as found:
            train(model, images, RECIPE, "cpu", tmp_path / "run.pt")
        assert all(word in str(found.value) for word in ["fashion_mnist_5k", *words]), found.value
    assert not list(tmp_path.iterdir())


def test_a_measure_is_taken_in_evaluation_mode_and_read_back_as_it_was(images, tmp_path):
    path, model = tmp_path / "run.pt", fresh()

    def measured(model, step):
        model.train(step > 0)  # a measure that forgets the mode
        return {"a": np.float64(0.5), "b": [np.arange(2), (True, None)], "c": {"d": model.head.bias}}

    measured.identity = "numbers"
    first, again = (train(each, images, SHORT, checkpoint=path, measure=measured) for each in (model, fresh()))
    assert first.measured["a"] == again.measured["a"] == {0: 0.5, 2: 0.5} and model.training
    assert first.measured["b"] == again.measured["b"] and first.measured["b"][2] == [[0, 1], [True, None]]
    for history in (first, again):  # a copy, which training has not changed
        assert torch.equal(history.measured["c"][0]["d"], torch.zeros(10))
    assert train(fresh(), images, SHORT).loss == first.loss
    with pytest.raises(ValueError, match="'a' holds a set"):
        train(fresh(), images, SHORT, measure=lambda model, step: {"a": {1}})


@pytest.mark.slow
def test_compiling_changes_the_training_step_alone(images, monkeypatch):
    recipe, compiled, calls = dataclasses.replace(RECIPE, steps=3), torch.compile, []

    def without_compiler(model):
        traced = compiled(model, backend="eager", fullgraph=True)
        return lambda batch: calls.append(len(batch)) or traced(batch)

    monkeypatch.setattr(torch, "compile", without_compiler)
    plain_model, model = fresh(), fresh()
    plain = train(plain_model, images, recipe, device="cpu")
    assert not calls
    history = train(model, images, recipe, device="cpu", compile=True)
    assert calls == [16] * 3  # the three evaluations, of 200 images, were not among them
    assert history.loss == pytest.approx(plain.loss, abs=1e-4) and history.loss != history.loss[:1] * 3
    for name, value in plain_model.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=1e-4, rtol=1e-3)


BAD = {
    "steps batch_size evaluations": [0, 2.5, True, math.nan],
    "warmup_steps crop_padding seed": [-1, "3", None],
    "lr min_lr weight_decay": [-0.1, math.inf, "1e-3", True, None],
    "label_smoothing gate_speed": [-0.1, math.nan, "0.1"],
    "label_smoothing": [1.5],
    "flip": [1, None],
    "precision": ["float16", None],
}


@pytest.mark.parametrize("names", BAD)
def test_a_setting_that_no_run_can_have_is_named(names):
    for name, value in itertools.product(names.split(), BAD[names]):
        with pytest.raises(ValueError, match=f"(?i){name}.*{re.escape(repr(value))}"):
            Recipe(**{name: value})


def test_settings_at_their_limits_are_taken():
    Recipe(steps=3, warmup_steps=30)  # a run shorter than its warm-up
    Recipe(lr=0, min_lr=0, weight_decay=0, label_smoothing=1, crop_padding=0, warmup_steps=0)
    with pytest.raises(ValueError, match="lr, 1e-06, to min_lr, which 1e-05"):
        Recipe(lr=1e-6)
    recipe = Recipe(seed=np.int64(3), lr=np.float32(0.5))
    assert (type(recipe.seed), type(recipe.lr)) == (int, float) and recipe == Recipe(seed=3, lr=0.5)


def test_devices_are_chosen_and_one_that_is_not_here_is_named(monkeypatch):
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=cuda: found)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda found=mps: found)
        assert pick_device("auto").type == expected
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert usable_device("cpu").type == "cpu" and usable_device("cuda:0").index == 0
    for name in ("cuda:1", "mps", "meta"):
        with pytest.raises(ValueError, match=f"There is no device {name} here"):
            usable_device(name)


@pytest.mark.slow
def test_the_demo_prints_its_comparison_and_names_bad_input(capsys):
    assert main(["demo", "--images", "20", "--seeds", "1", "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert "DeiT" in printed and "ConViT" in printed and "gap" in printed
    assert main(["demo", "--images", "9"]) == 2
    assert "error:" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["demo", "--seeds", "0"])
