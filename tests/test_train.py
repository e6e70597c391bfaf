"""The recipe, exact resume, and what happens when training goes wrong."""

import dataclasses
import itertools
import math

import pytest
import torch

from convit_edu import create_model, data
from convit_edu.__main__ import main
from convit_edu.train import Recipe, Run, evaluate, parameter_groups, pick_device, train

RECIPE = Recipe(steps=12, batch_size=16, warmup_steps=3, evaluations=3, drop_path=0.2)


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


def test_bad_recipes_are_named():
    with pytest.raises(ValueError, match="Unknown precision 'int8'; known: float32, bfloat16"):
        Recipe(precision="int8")
    with pytest.raises(ValueError, match="at least one step"):
        Recipe(steps=0)


def test_device_auto():
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == torch.device("cpu")


def test_the_demo_prints_its_comparison_and_names_bad_input(capsys):
    assert main(["demo", "--images", "20", "--seeds", "1", "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert "DeiT" in printed and "ConViT" in printed and "gap" in printed
    assert main(["demo", "--images", "9"]) == 2
    assert "error:" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["demo", "--seeds", "0"])
