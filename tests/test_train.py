"""The recipe, exact resume, and what happens when training goes wrong."""

import dataclasses
import itertools
import math
import os
import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from convit_edu import create_model, data
from convit_edu.__main__ import main
from convit_edu.augment import augment, mix, random_erasing
from convit_edu.data import batches, seeded
from convit_edu.train import Recipe, Run, evaluate, parameter_groups, pick_device, train

RECIPE = Recipe(steps=12, batch_size=16, warmup_steps=3, evaluations=3, drop_path=0.2)
EVERYTHING = dataclasses.replace(RECIPE, erasing=0.5, mixup=0.8, cutmix=1.0)


@pytest.fixture(scope="module")
def images():
    fashion = data.load("fashion_mnist_5k").subset(size=50)
    return dataclasses.replace(fashion, test_images=fashion.test_images[:200], test_labels=fashion.test_labels[:200])


def fresh(**overrides):
    sizes = {"embed_dim": 36, "depth": 2, "local_up_to_layer": 1}
    return create_model("convit_mini_28", seed=0, **sizes | overrides)


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
    assert "cls_token" not in {
        name for name, p in create_model("convit_mini_28", pool="mean").named_parameters() if p.requires_grad
    }


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


def test_training_learns(images):
    model = create_model("convit_mini_28", seed=0)
    history = train(model, images, Recipe(steps=60, batch_size=50, warmup_steps=10, evaluations=1, flip=False))
    assert history.final_accuracy > 35  # chance is 10
    assert history.loss[-1] < history.loss[0] - 0.5


@pytest.mark.parametrize(
    "options",
    [{}, {"precision": "bfloat16"}, {"erasing": 0.6}, {"erasing": 0.6, "mixup": 0.8}, {"mixup": 0.8, "cutmix": 1.0}],
)
def test_a_run_is_what_its_steps_by_hand_are_to_the_bit(images, options):
    recipe = dataclasses.replace(RECIPE, steps=4, evaluations=1, **options)
    history = train(fresh(), images, recipe, device="cpu")
    model, order = fresh().train(), batches(50, 16, recipe.seed)
    model.set_drop_path(0.2)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-3)
    for step in range(4):
        index = next(order)
        batch = images.normalize(augment(images.train_images[index], seeded(0, "augment", step)))
        targets = images.train_labels[index]
        if recipe.erasing:
            batch = random_erasing(batch, seeded(0, "erasing", step), 0.6)
        if recipe.mixup:
            batch, targets = mix(batch, targets, 10, seeded(0, "mix", step), 0.8, recipe.cutmix)
        torch.manual_seed(seeded(0, "dropout", step).initial_seed())
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            logits = model(batch)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=0.1)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.item() == history.loss[step]


def test_a_seed_fixes_a_run_to_the_bit(images):
    state = torch.get_rng_state()
    runs = [train(fresh(), images, dataclasses.replace(RECIPE, seed=seed)) for seed in (5, 5, 6)]
    assert runs[0].loss == runs[1].loss and runs[0].accuracy == runs[1].accuracy
    assert runs[0].loss != runs[2].loss
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("stop_after", [5, 8, 11])
def test_a_stopped_run_resumes_to_the_same_result(images, tmp_path, stop_after):
    """Stopped between checkpoints (after 4 and 8 steps) or at one, as by Ctrl-C."""
    whole_model = fresh()
    whole = train(whole_model, images, RECIPE)

    class Interrupted(Run):
        def train_step(self, indices):
            if self.step == stop_after:
                raise KeyboardInterrupt
            return super().train_step(indices)

    path = tmp_path / "run" / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), images, RECIPE, checkpoint=path, run_type=Interrupted)
    resumed_model = create_model("convit_mini_28", seed=99, embed_dim=36, depth=2, local_up_to_layer=1)
    resumed = train(resumed_model, images, RECIPE, checkpoint=path)
    assert resumed.loss == whole.loss and resumed.accuracy == whole.accuracy
    for name, value in whole_model.state_dict().items():
        assert torch.equal(value, resumed_model.state_dict()[name]), name
    again = train(fresh(), images, RECIPE, checkpoint=path)  # a finished run is not run again
    assert again.loss == whole.loss
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


def test_a_run_that_mixes_erases_and_measures_resumes_to_the_same_result(images, tmp_path):
    class Measured(Run):
        stop_after = None

        def train_step(self, indices):
            if self.step == self.stop_after:
                raise KeyboardInterrupt
            return super().train_step(indices)

        def evaluate(self):
            super().evaluate()
            norms = [p.detach().norm().item() for p in self.model.head.parameters()]
            self.history.measured.setdefault("head norms", {})[self.step] = norms

    class Interrupted(Measured):
        stop_after = 6

    path = tmp_path / "checkpoint.pt"
    whole = train(fresh(), images, EVERYTHING, run_type=Measured)
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), images, EVERYTHING, checkpoint=path, run_type=Interrupted)
    resumed = train(fresh(), images, EVERYTHING, checkpoint=path, run_type=Measured)
    assert resumed.loss == whole.loss and resumed.accuracy == whole.accuracy
    assert resumed.measured == whole.measured
    assert list(whole.measured["head norms"]) == [4, 8, 12] and whole.measured["head norms"][4][0] > 0
    assert train(fresh(), images, RECIPE).measured == {}


def test_a_checkpoint_older_than_some_settings_still_loads(images, tmp_path):
    path, whole = tmp_path / "checkpoint.pt", train(fresh(), images, RECIPE)
    train(fresh(), images, RECIPE, checkpoint=path)
    state = torch.load(path)
    del state["history"]["measured"]
    for name in ("erasing", "mixup", "cutmix"):
        assert state["identity"].pop(f"recipe.{name}") == 0
    torch.save(state, path)
    assert train(fresh(), images, RECIPE, checkpoint=path).loss == whole.loss
    with pytest.raises(ValueError, match=r"it differs in recipe.erasing, recipe.mixup, recipe.cutmix"):
        train(fresh(), images, EVERYTHING, checkpoint=path)


def test_a_checkpoint_of_another_configuration_is_refused(images, tmp_path):
    path = tmp_path / "checkpoint.pt"
    train(fresh(), images, RECIPE, checkpoint=path)
    with pytest.raises(ValueError, match=r"another configuration \(it differs in model.depth\)"):
        train(fresh(depth=3), images, RECIPE, checkpoint=path)
    with pytest.raises(ValueError, match=r"it differs in recipe.lr, recipe.seed"):
        train(fresh(), images, dataclasses.replace(RECIPE, lr=2e-3, seed=1), checkpoint=path)
    with pytest.raises(ValueError, match=r"it differs in data.checksum"):
        train(fresh(), images.subset(size=40, seed=1), RECIPE, checkpoint=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is not a readable checkpoint; delete it"):
        train(fresh(), images, RECIPE, checkpoint=path)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(images, tmp_path):
    class Poisoned(Run):
        def train_step(self, indices):
            if self.step == 6:
                self.model.head.bias.data.fill_(math.nan)  # the weights are lost as well as the loss
            return super().train_step(indices)

    path = tmp_path / "checkpoint.pt"
    with pytest.raises(FloatingPointError, match="became nan at step 7 of 12; the last good checkpoint is kept"):
        train(fresh(), images, RECIPE, checkpoint=path, run_type=Poisoned)
    model = fresh()
    history = train(model, images, RECIPE, checkpoint=path)
    assert len(history.loss) == 12 and all(map(math.isfinite, history.loss))
    assert all(p.isfinite().all() for p in model.parameters())


def test_mixed_precision_trains(images):
    history = train(fresh(), images, dataclasses.replace(RECIPE, precision="bfloat16"))
    exact = train(fresh(), images, RECIPE)
    assert history.loss != exact.loss
    assert history.loss == pytest.approx(exact.loss, abs=0.1)


def test_compiling_changes_the_training_step_alone(images, monkeypatch):
    recipe, compiled, calls = dataclasses.replace(RECIPE, steps=3, drop_path=None), torch.compile, []

    def without_compiler(model):
        traced = compiled(model, backend="aot_eager", fullgraph=True)  # all but the machine code

        def call(batch):
            calls.append(len(batch))
            return traced(batch)

        return call

    monkeypatch.setattr(torch, "compile", without_compiler)
    plain_model, model = fresh(), fresh()
    plain = train(plain_model, images, recipe, device="cpu")
    assert not calls
    history = train(model, images, recipe, device="cpu", compile=True)
    assert calls == [16] * 3  # the three evaluations, of 200 images, were not among them
    assert history.loss == pytest.approx(plain.loss, abs=1e-4) and history.loss != history.loss[:1] * 3
    assert model.state_dict().keys() == plain_model.state_dict().keys()
    for name, value in plain_model.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=1e-4, rtol=1e-3)


COMPILER = any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++")))
HEADERS = Path(sysconfig.get_path("include"), "Python.h").exists()


@pytest.mark.skipif(not (COMPILER and HEADERS), reason="torch.compile needs a C++ compiler and Python's headers")
def test_compiling_to_machine_code_trains_alike(images):
    """A linear model: a transformer of two blocks takes the compiler half a minute."""
    recipe = Recipe(steps=2, batch_size=16, warmup_steps=1, evaluations=1)

    def linear():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))

    plain, compiled = (train(linear(), images, recipe, device="cpu", compile=choice) for choice in (False, True))
    assert compiled.loss == pytest.approx(plain.loss, abs=1e-4) and plain.loss[0] != plain.loss[1]


def test_no_step_needs_double_precision(images):
    """Apple's GPUs have none."""
    seen = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **kwargs or {})
            seen.update(x.dtype for x in torch.utils._pytree.tree_leaves(result) if torch.is_tensor(x))
            return result

    with Watch():
        train(fresh(), images, dataclasses.replace(EVERYTHING, steps=4), device="cpu")
    assert torch.float32 in seen and torch.uint8 in seen and torch.float64 not in seen


def test_bad_recipes_are_named():
    with pytest.raises(ValueError, match="Unknown precision 'int8'; known: float32, bfloat16"):
        Recipe(precision="int8")
    with pytest.raises(ValueError, match="at least one step"):
        Recipe(steps=0)
    for options in ({"mixup": -0.1}, {"cutmix": math.inf}, {"erasing": 1.1}, {"erasing": -0.1}, {"mixup": math.nan}):
        with pytest.raises(ValueError, match="mixup and cutmix must be finite and not negative, and erasing is a prob"):
            Recipe(**options)


def test_device_auto(monkeypatch):
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=cuda: found)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda found=mps: found)
        assert pick_device("auto").type == expected
    assert pick_device("cpu") == torch.device("cpu")


def test_the_demo_prints_its_comparison_and_names_bad_input(capsys):
    assert main(["demo", "--images", "20", "--seeds", "1", "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert "DeiT" in printed and "ConViT" in printed and "gap" in printed
    assert main(["demo", "--images", "9"]) == 2
    assert "error:" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["demo", "--seeds", "0"])
