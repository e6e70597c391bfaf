"""Hard distillation: the loss against its equation, what the teacher sees, and that a run stays what it is."""

import dataclasses
import itertools
import json

import pytest
import torch
import torch.nn.functional as F

from convit_edu import create_model, data
from convit_edu.beyond.cnn import create_cnn
from convit_edu.beyond.distillation import HardDistillation, checksum, hard_distillation_loss, predictions
from convit_edu.lab import campaign, experiments
from convit_edu.lab import run as worker
from convit_edu.lab.scales import SCALES
from convit_edu.train import Recipe, train

RECIPE = Recipe(steps=3, batch_size=8, warmup_steps=1, evaluations=1)


@pytest.fixture(scope="module")
def images():
    few = data.load("fashion_mnist_5k").subset(size=30)
    return dataclasses.replace(few, test_images=few.test_images[:40], test_labels=few.test_labels[:40])


def student():
    return create_model("convit_mini_28", 0, embed_dim=18, depth=2, local_up_to_layer=1, num_heads=9)


def test_smoothing_is_for_the_label_alone_and_a_label_may_be_shared_out():
    torch.manual_seed(0)
    logits, teacher, labels = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    said = -logits.log_softmax(1)[range(5), teacher.argmax(1)].mean()
    for smoothing, targets in ((0.3, labels), (0.0, torch.full((5, 3), 1 / 3))):
        wanted = (F.cross_entropy(logits, targets, label_smoothing=smoothing) + said) / 2
        torch.testing.assert_close(hard_distillation_loss(logits, targets, teacher, smoothing), wanted)


def test_the_loss_is_that_of_what_the_teacher_says(images):
    teacher, logits, labels = create_cnn(seed=0, width=4), torch.randn(8, 10), images.train_labels[:8]
    batch = images.normalize(images.train_images[:8])
    wanted = hard_distillation_loss(logits, labels, teacher.eval()(batch), 0.3)
    assert torch.equal(HardDistillation(teacher.train(), 0.3)(batch, logits, labels), wanted)


def test_the_teacher_sees_what_the_student_sees_and_is_not_trained(images):
    teacher, seen = create_cnn(seed=3, width=4), []
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    model = student()
    teacher.register_forward_pre_hook(lambda _, inputs: seen.append(("teacher", inputs[0].clone())))
    model.register_forward_pre_hook(lambda module, inputs: seen.append(("student", inputs[0].clone())))
    train(model, images, RECIPE, "cpu", loss=HardDistillation(teacher))
    steps = [(one, other) for one, other in itertools.pairwise(seen) if other[0] == "teacher"]
    assert len(steps) == RECIPE.steps and all(torch.equal(one[1], other[1]) for one, other in steps)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())  # batch norm as well
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_checkpoint_knows_its_teacher(images, tmp_path):
    one, other, path = create_cnn(seed=0, width=4), create_cnn(seed=1, width=4), tmp_path / "run.pt"
    train(student(), images, RECIPE, "cpu", path, loss=HardDistillation(one))
    train(student(), images, RECIPE, "cpu", path, loss=HardDistillation(one))  # goes on, at its end
    for loss in (HardDistillation(other), HardDistillation(one, label_smoothing=0.1), None):
        with pytest.raises(ValueError, match=r"it differs in loss\)"):
            train(student(), images, RECIPE, "cpu", path, loss=loss)
    assert checksum(one) == checksum(create_cnn(seed=0, width=4)) != checksum(other)


def test_predictions_are_the_most_likely_classes_and_leave_the_mode(images):
    model = create_cnn(seed=0, width=4)
    said = predictions(model, images.test_images, images, batch_size=7)
    assert model.training
    with torch.no_grad():
        assert torch.equal(said, model.eval()(images.normalize(images.test_images)).argmax(1))


# --- the experiment

RATES = {"ConViT": 1e-3, "DeiT, equal heads": 2e-3, "DeiT, few heads": 4e-3, "CNN": 8e-3}


def cells(name, scale):
    settings = experiments.Settings(RATES, "DeiT, equal heads")
    return {json.dumps(cell.label): cell.config for cell in experiments.grid(name, SCALES[scale], settings)}


def test_the_arms_differ_in_the_teacher_alone_and_share_the_other_runs():
    found, pair = cells("distillation", "laptop"), cells("dynamics", "laptop")
    (cnn,) = (c for label, c in cells("sample_efficiency", "laptop").items()
              if json.loads(label) == {"arm": "CNN", "fraction": 1.0, "steps": 1200})  # fmt: skip
    for arm in ("ConViT", "DeiT"):
        without = pair[json.dumps({"arm": arm})]
        assert found[json.dumps({"arm": arm, "teacher": "none"})] == without
        assert found[json.dumps({"arm": arm, "teacher": "CNN"})] == dataclasses.replace(without, teacher=cnn)
    assert len(found) == 4


@pytest.mark.slow
def test_a_run_says_how_good_its_teacher_is_and_counts_its_seconds(monkeypatch):
    found = cells("distillation", "laptop-rehearsal")
    config = found[json.dumps({"arm": "DeiT", "teacher": "CNN"})]
    result = worker.perform(config, 0, "cpu", None, None)["result"]
    alone = worker.perform(config.teacher, 0, "cpu", None, None)["result"]
    assert result["teacher"]["accuracy"] == alone["accuracy"]  # trained as by itself
    assert set(result["teacher"]) == {"accuracy", "on training images", "agreement"}
    assert all(0 <= value <= 100 for value in result["teacher"].values()) and "masking" in result
    teacher, _ = worker.model_before(config.teacher, 0, "cpu", None)
    monkeypatch.setattr(worker, "model_before", lambda *_: (teacher, 1e6))
    again = worker.perform(config, 0, "cpu", None, None)
    assert again["result"] == result and again["meta"]["seconds"] > 1e6  # teaching does not change the teacher


def test_the_estimate_counts_the_teacher():
    found = cells("distillation", "laptop")
    without, with_ = (found[json.dumps({"arm": "DeiT", "teacher": name})] for name in ("none", "CNN"))
    extra = campaign.arithmetic(with_) - campaign.arithmetic(without)
    assert extra == pytest.approx(campaign.arithmetic(with_.teacher))
