"""The paper's recipe for many GPUs, tried on the CPU with small pictures that the tests write.

Two tests start two processes by torchrun. All others run `main` in this process, which is a run of one process.
"""

import json
import math
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from convit_edu import create_model
from convit_edu.imagenet import GroupBatches, PaperRecipe, Training, accuracy, scan
from convit_edu.imagenet import __main__ as program
from convit_edu.imagenet.__main__ import main
from convit_edu.imagenet.folders import Images
from convit_edu.imagenet.ranks import Ranks, Refusal
from convit_edu.imagenet.recipe import posterize
from convit_edu.parity import timm
from convit_edu.saving import one_writer

pytestmark = pytest.mark.usefixtures("one_thread")  # as torchrun gives each process
TRAIN, VAL, CLASSES, STEPS, EPOCHS = 20, 6, 3, 3, 3  # images of a class; steps of an epoch
SMALL = ["--set", "embed_dim=36", "depth=2", "local_up_to_layer=1", "--global-batch", "16", "--group", "8"]
SMALL += ["--epochs", str(EPOCHS), "--warmup-epochs", "1", "--lr", "0.05", "--workers", "0", "--sync-every", "1"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Noise of another brightness for each class: enough to learn from."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("val", VAL)):
        for label in range(CLASSES):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(80 * label, 80 * label + 95, (36, 44, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return root


@pytest.fixture
def own_pictures(pictures, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(pictures, tmp_path / "pictures")


def command(root, out, *more, model="convit_mini_32"):
    where = ["--data", str(root), "--out", str(out), "--device", "cpu"]
    return [*where, "--model", model, *SMALL, *map(str, more)]


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory, one_thread):
    """The folder of an uninterrupted run of one process."""
    out = tmp_path_factory.mktemp("whole")
    assert main(command(pictures, out)) == 0
    return out


def log(out):
    return json.loads((out / "log.json").read_text())


def weights(out):
    return torch.load(out / "checkpoint.pt", weights_only=True)["model"]


def assert_same_run(out, expected):
    """Equal to the bit, but for clocks, and for the order in which the losses of a test are added."""
    assert log(out)["losses"] == log(expected)["losses"]
    for row, other in zip(log(out)["epochs"], log(expected)["epochs"], strict=True):
        assert all(row[name] == other[name] for name in ("epoch", "lr", "train_loss", "top1", "top5", "val_images"))
        assert row["val_loss"] == pytest.approx(other["val_loss"], rel=1e-5)
    assert all(torch.equal(value, weights(expected)[name]) for name, value in weights(out).items())


def refused(capsys, arguments, *sentences):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    for sentence in sentences:
        assert sentence in error


# --- two processes

KILLER = """
import os, signal, sys
from convit_edu.imagenet import Training
from convit_edu.imagenet.__main__ import main

step = Training.train_step

def train_step(self, batches):
    if self.ranks.rank == 1 and self.done == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batches)

Training.train_step = train_step
sys.exit(main())
"""


def two_processes(*program):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CONVIT_EDU_PROGRESS": "0"}
    return subprocess.run([*launcher, *map(str, program)], capture_output=True, text=True, timeout=300, env=environment)


def test_one_of_several_processes_leaves_without_taking_gloo_down(tmp_path, monkeypatch, capsys):
    """Seen with PyTorch 2.5: the group's teardown and a thread of gloo's wait for each other, for ever."""
    ended = []
    monkeypatch.setattr(sys, "argv", ["imagenet", "--data", str(tmp_path / "nothing"), "--device", "cpu"])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: ended.append("taken down"))
    monkeypatch.setattr(os, "_exit", ended.append)
    with pytest.warns(RuntimeWarning, match="sys.modules"), pytest.raises(SystemExit):  # `_exit` came back
        runpy.run_module("convit_edu.imagenet", run_name="__main__", alter_sys=False)
    assert ended == [2] and "nothing" in capsys.readouterr().err


@pytest.mark.slow
def test_a_rank_is_killed_and_two_processes_or_one_go_on_as_if_nothing_had_been(pictures, whole, tmp_path):
    killer, two, one = tmp_path / "killer.py", tmp_path / "two", tmp_path / "one"
    killer.write_text(KILLER)
    killed = two_processes(killer, *command(pictures, two))
    assert killed.returncode != 0 and "SIGKILL" in killed.stderr, killed.stderr
    assert log(two)["losses"] == log(whole)["losses"][:STEPS]  # the first epoch, of two processes: equal to the bit
    shutil.copytree(two, one)

    done = two_processes("-m", "convit_edu.imagenet", *command(pictures, two))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 process(es) on cpu; from step 3") == 1 and done.stdout.count("epoch 3/3") == 1
    assert_same_run(two, whole)  # two gradients have one order of adding; with more of them it is rounding

    assert main(command(pictures, one)) == 0
    assert_same_run(one, whole)


@pytest.mark.slow
def test_the_first_of_two_says_it_and_both_leave(pictures, tmp_path):
    """Without torchrun, which would end the second when the first has left. Rank 1 alone sees a folder without val/."""
    (tmp_path / "train" / "a").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "convit_edu.imagenet", *command(root, tmp_path / "out")], stderr=subprocess.PIPE,
            text=True, env=os.environ | meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank, root in enumerate((pictures, tmp_path))
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert "error: " not in said[1] and said[0].count("error: ") == 1
    assert f"error: {tmp_path} must hold train/ and val/, each with one sub-folder" in said[0]


# --- one process: stop, resume, logs


@pytest.mark.slow
@pytest.mark.parametrize(("at", "kept"), [(4, 5), (5, 6)], ids=["within an epoch", "before a test"])
def test_ctrl_c_keeps_what_was_done(pictures, whole, tmp_path, monkeypatch, capsys, at, kept):
    step = Training.train_step

    def interrupted(self, batches):
        if self.done == at:
            signal.raise_signal(signal.SIGINT)
        return step(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "train_step", interrupted)
        assert main(command(pictures, tmp_path)) == 128 + signal.SIGINT
    assert f"Stopped; the same command goes on from {tmp_path}." in capsys.readouterr().err
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == kept
    assert len(log(tmp_path)["epochs"]) == 1  # the second test is still due
    assert main(command(pictures, tmp_path)) == 0
    assert_same_run(tmp_path, whole)


@pytest.mark.slow
def test_readers_and_exchanges_change_nothing(pictures, whole, tmp_path):
    assert main(command(pictures, tmp_path, "--workers", 2, "--sync-every", 100)) == 0
    assert_same_run(tmp_path, whole)


def test_a_finished_run_is_not_run_again(pictures, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "out")
    before = (tmp_path / "out" / "log.json").read_bytes()
    assert main(command(pictures, tmp_path / "out")) == 0
    assert "epoch" not in capsys.readouterr().out.split("from step 9")[1]
    assert (tmp_path / "out" / "log.json").read_bytes() == before


def test_log(whole):
    record = log(whole)
    assert [row["epoch"] for row in record["epochs"]] == [1, 2, 3] and len(record["losses"]) == EPOCHS * STEPS
    peak = 0.05 * 16 / 512
    cosine = [1e-5 + (peak - 1e-5) / 2 * (1 + math.cos(math.pi * epoch / EPOCHS)) for epoch in (1, 2)]
    assert [row["lr"] for row in record["epochs"]] == pytest.approx([1e-6, *cosine])  # epoch e at the rate of e
    assert record["losses"][0] == pytest.approx(math.log(CLASSES), abs=0.1)  # a new network knows nothing
    for number, row in enumerate(record["epochs"]):
        assert row["train_loss"] == pytest.approx(sum(record["losses"][3 * number :][:3]) / 3, rel=1e-12)
        assert row["top5"] == 100 and row["val_images"] == CLASSES * VAL
        rounding = 0.05 * row["images_per_second"] + 1  # seconds have one decimal place
        assert row["images_per_second"] * row["seconds"] == pytest.approx(STEPS * 16, abs=rounding)
    assert record["run"]["model"] == "convit_mini_32" and record["run"]["recipe.global_batch"] == 16


@pytest.mark.slow
def test_it_learns(pictures, tmp_path, monkeypatch):
    plain = ["--mixup", 0, "--cutmix", 0, "--drop-path", 0]
    monkeypatch.setattr(PaperRecipe, "transform", lambda self, shape: timm.data.create_transform(shape))
    assert main(command(pictures, tmp_path, *plain, "--epochs", 8, "--lr", 0.1, "--repeats", 1)) == 0
    assert log(tmp_path)["epochs"][-1]["top1"] > 60


# --- order and augmentation


@pytest.mark.parametrize("images", [60, 61, 255, 700])
def test_the_order_is_timms_and_no_matter_of_processes(images):
    groups, size = 4, 8
    alone = GroupBatches(images, groups, size, range(groups), 3, seed=0)
    alone.enter(5)
    every = list(alone)
    assert len(every) == len(alone) == alone.steps * groups
    for world in (2, 4):
        share = groups // world
        parts = []
        for rank in range(world):
            part = GroupBatches(images, groups, size, range(rank * share, (rank + 1) * share), 3, seed=0)
            part.enter(5)
            parts.append(iter(list(part)))
        dealt = [next(parts[group // share]) for _ in range(alone.steps) for group in range(groups)]
        assert dealt == every
    for group in range(groups):
        sampler = timm.data.distributed_sampler.RepeatAugSampler(
            range(images), groups, group, selected_round=256 if images >= 256 else 0  # before 1.0.31 none of few
        )
        sampler.set_epoch(5)
        mine = [index for batch in every[group::groups] for index, _ in batch]
        assert mine == list(sampler)[: len(mine)] and len(sampler) - len(mine) < size
    keys = [key for batch in every for _, key in batch]
    assert len(set(keys)) == len(keys)  # no two copies look alike
    copies = Counter(index for batch in every for index, _ in batch)
    assert max(copies.values()) == 3 and len(copies) <= math.ceil(images / 3) + groups


def test_the_order_can_be_entered_anywhere_and_depends_on_seed_and_epoch():
    def order(epoch, step=0, seed=0):
        batches = GroupBatches(60, 2, 8, range(2), 3, seed)
        batches.enter(epoch, step)
        return list(batches)

    assert order(1, step=2) == order(1)[4:]
    assert order(0) == order(0) != order(1) and order(0) != order(0, seed=1)


def test_augmentation_depends_on_the_key_alone(pictures):
    files, _ = scan(pictures)
    images = Images(files, PaperRecipe().transform((3, 32, 32)))
    first = images[0, (0, 0, 7)][0]
    images[5, (0, 3, 1)]
    assert first.shape == (3, 32, 32) and torch.equal(first, images[0, (0, 0, 7)][0])
    assert not torch.equal(first, images[0, (0, 0, 8)][0]) and not torch.equal(first, images[0, (1, 0, 7)][0])


def trained(pictures, out, **changes):
    """A run, without what depends on how the batch falls into groups, and its images."""
    recipe = PaperRecipe(3, 1, lr=0.05, global_batch=16, group=8, mixup=0, cutmix=0, drop_path=0, repeats=1)
    recipe, (files, _) = replace(recipe, **changes), scan(pictures)
    model = create_model("convit_mini_32", seed=0, num_classes=3, embed_dim=36, depth=2, local_up_to_layer=1)
    return Training(model, recipe, files, Ranks("cpu"), out, {}), Images(files, recipe.transform((3, 32, 32)))


def test_groups_add_up_to_the_global_batch(pictures, tmp_path):
    """One step on two groups of 8 does what one does on the same 16 images at once."""
    (training, images), (at_once, _) = trained(pictures, tmp_path), trained(pictures, tmp_path, group=16)
    data = iter(DataLoader(images, batch_sampler=training.batches))
    first, second = next(data), next(data)
    losses = training.train_step(iter([first, second]))
    loss = at_once.train_step(iter([[torch.cat(pair) for pair in zip(first, second, strict=True)]]))
    assert losses.mean().item() == pytest.approx(loss.item(), rel=1e-5)
    for name, value in training.model.state_dict().items():
        torch.testing.assert_close(value, at_once.model.state_dict()[name], rtol=0, atol=2e-5, msg=name)


@pytest.mark.parametrize("changes", [{"mixup": 0.8}, {"drop_path": 0.9}], ids=["mixing", "stochastic depth"])
def test_every_group_draws_its_own_fixed_by_step_and_group(pictures, tmp_path, changes):
    training, images = trained(pictures, tmp_path, **changes)
    pixels, labels = next(iter(DataLoader(images, batch_sampler=training.batches)))

    def loss(group):
        return training.group_loss(pixels.clone(), labels, group).item()  # mixing writes over its images

    first, again, other = loss(0), loss(0), loss(1)
    training.done += 1
    assert first == again and len({first, other, loss(0)}) == 3


# --- the recipe


def test_the_papers_values():
    tiny, plus = (PaperRecipe().for_model(name) for name in ("convit_tiny", "convit_small_plus"))
    assert (tiny.global_batch, tiny.peak_lr, tiny.groups) == (1024, 1e-3, 8)
    assert (plus.global_batch, plus.peak_lr, plus.groups) == (512, 4e-4, 8)
    given = replace(PaperRecipe(), global_batch=256, group=32, lr=1e-3).for_model("convit_tiny")
    assert (given.global_batch, given.peak_lr, given.groups) == (256, 5e-4, 8)


@pytest.mark.parametrize(("fraction", "epochs", "warmup"), [(1, 300, 5), (0.3, 1000, 16), (0.1, 3000, 50)])
def test_fractions_stretch_the_schedule(fraction, epochs, warmup):
    recipe = PaperRecipe().for_model("convit_tiny", fraction)
    assert (recipe.epochs, recipe.warmup_epochs) == (epochs, warmup)


def test_fractions_keep_the_first_files_of_each_class(pictures):
    files, val = scan(pictures, 0.3)
    names = [f"train/class{label}/{number:02d}.png" for label in range(CLASSES) for number in range(int(0.3 * TRAIN))]
    assert [os.fsdecode(name) for name in files.names] == names
    assert files.labels.tolist() == [label for label in range(CLASSES) for _ in range(6)] and len(val) == CLASSES * VAL
    assert len(scan(pictures, 0.01)[0]) == CLASSES  # at least one
    assert files.fingerprint() != scan(pictures)[0].fingerprint()


def test_rates():
    recipe = PaperRecipe().for_model("convit_tiny")
    optimizer = recipe.optimizer(torch.nn.Linear(2, 2))
    scheduler, rates = recipe.scheduler(optimizer), []
    for epoch in range(recipe.epochs):
        scheduler.step(epoch)
        rates.append({group["lr"] for group in optimizer.param_groups})
    rates = [rate for (rate,) in rates]
    assert rates[0] == 1e-6 and max(rates) == rates[5]
    assert rates[4] == pytest.approx(1e-6 + 4 / 5 * (1e-3 - 1e-6))
    assert rates[150] == pytest.approx((1e-3 + 1e-5) / 2) and 1e-5 < rates[299] < 1.1e-5


@pytest.mark.parametrize("decay_tokens", [False, True])
def test_what_is_decayed(decay_tokens):
    model = create_model("convit_mini_32")
    optimizer = replace(PaperRecipe(lr=1e-3, global_batch=512), decay_tokens=decay_tokens).optimizer(model)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {name_of[id(p)] for g in optimizer.param_groups for p in g["params"] if g["weight_decay"] == 0.05}
    spared = {name_of[id(p)] for g in optimizer.param_groups for p in g["params"] if g["weight_decay"] == 0.0}
    assert decayed | spared == set(name_of.values()) and not decayed & spared
    assert {"blocks.0.attn.gating_param", "blocks.0.attn.pos_proj.bias", "norm.weight"} <= spared
    assert {"blocks.0.attn.pos_proj.weight", "patch_embed.proj.weight", "head.weight"} <= decayed
    assert ({"pos_embed", "cls_token"} <= decayed) == decay_tokens
    assert ({"pos_embed", "cls_token"} <= spared) == (not decay_tokens)


@pytest.mark.parametrize("strength", [0, 9, 10])
def test_every_operation_lives_at_every_strength(pictures, strength):
    """Strength 9 varies by 0.5, up to 10: there timm asks for 0 bits of posterize, which Pillow 13 refuses."""
    image = Image.open(pictures / "train" / "class1" / "00.png").convert("RGB")
    (found,) = (step.ops for step in PaperRecipe().transform((3, 32, 32)).transforms if hasattr(step, "ops"))
    assert len(found) == 15
    for operation in found:
        operation.prob, operation.magnitude = 1, strength
        for _ in range(20):
            drawn = operation(image)
            assert (drawn.mode, drawn.size) == ("RGB", image.size), operation


@pytest.mark.parametrize("bits", range(9))
def test_posterize_keeps_the_highest_bits(bits):
    values = np.arange(256).reshape(16, 16, 1).repeat(3, 2)  # (16, 16, 3)
    kept = np.asarray(posterize(Image.fromarray(values.astype(np.uint8)), bits))
    assert np.array_equal(kept, values // 2 ** (8 - bits) * 2 ** (8 - bits))


def test_timm_makes_what_the_paper_names():
    words = str(PaperRecipe().transform((3, 224, 224)))
    for part in ("RandomResizedCropAndInterpolation(size=(224, 224)", "bicubic", "RandomHorizontalFlip(p=0.5)",
                 "RandAugment(n=2", "RandomErasing(p=0.25, mode=pixel"):  # fmt: skip
        assert part in words
    assert "ColorJitter(" not in words
    mixup, criterion = PaperRecipe().mixer(10)
    assert (mixup.mixup_alpha, mixup.cutmix_alpha, mixup.switch_prob, mixup.label_smoothing) == (0.8, 1.0, 0.5, 0.1)
    assert PaperRecipe(mixup=0, cutmix=0).mixer(10)[0] is None


# --- evaluation


def test_evaluate_own_checkpoint_by_the_names_of_the_classes(own_pictures, whole, capsys):
    """No training images are needed; a folder with some of the classes is tested by their names."""
    shutil.rmtree(own_pictures / "train")
    given = command(own_pictures, whole, "--evaluate", whole / "checkpoint.pt")
    assert main(given) == 0
    last, words = log(whole)["epochs"][-1], capsys.readouterr().out
    assert f"top-1 {last['top1']:.2f} %, top-5 100.00 %, loss {last['val_loss']:.4f}, " in words
    assert "18 images of 3 of its 3 classes" in words
    shutil.rmtree(own_pictures / "val" / "class0")
    assert main(given) == 0 and "12 images of 2 of its 3 classes" in capsys.readouterr().out
    (files,) = scan(own_pictures, splits=("val",))
    assert files.labels.tolist() == [0] * VAL + [1] * VAL
    assert files.labelled_for(("class0", "class1", "class2"), "It").labels.tolist() == [1] * VAL + [2] * VAL
    (own_pictures / "val" / "class2").rename(own_pictures / "val" / "wolf")
    refused(capsys, given, "checkpoint.pt tells 3 classes apart (class0, ", "has others: wolf;")
    shutil.rmtree(own_pictures / "val")
    refused(capsys, given, f"{own_pictures} must hold val/, each", "there is no val in it")


def test_evaluate_official_weights(own_pictures, capsys, monkeypatch):
    """timm's models know ImageNet's classes by their numbers in WordNet; a ConViT with that head stands in."""
    given, seen = command(own_pictures, "unused", "--evaluate", "convit_tiny"), []
    monkeypatch.setattr(
        program, "from_timm", lambda name, pretrained: create_model("convit_mini_32", seed=0, num_classes=1000)
    )
    monkeypatch.setattr(program, "accuracy", lambda *a, **b: seen.append(a[1]) or accuracy(*a, **b))
    refused(capsys, given, "convit_tiny tells 1000 classes apart", "has others: class0, class1, class2;")
    for label, name in enumerate(["n01443537", "n01440764", "n15075141"]):  # the second, the first and the last class
        (own_pictures / "val" / f"class{label}").rename(own_pictures / "val" / name)
    assert main(given) == 0
    assert "timm's convit_tiny: top-1 " in capsys.readouterr().out
    assert sorted(set(seen[0].labels.tolist())) == [0, 1, 999]

    def no_network(name, pretrained):
        raise ConnectionError("The pretrained weights of convit_tiny could not be fetched by timm (OSError)")

    monkeypatch.setattr(program, "from_timm", no_network)
    refused(capsys, given, "could not be fetched")
    refused(capsys, command(own_pictures, "unused", "--evaluate", "convit"), "convit is neither a checkpoint of this")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_no_accuracy(pictures, whole, tmp_path, capsys, value):
    state = torch.load(whole / "checkpoint.pt", weights_only=True)
    state["model"]["head.bias"][1] = value
    torch.save(state, tmp_path / "checkpoint.pt")
    given = command(pictures, tmp_path, "--evaluate", tmp_path / "checkpoint.pt")
    refused(capsys, given, "logits are not finite for 18 of 18 images")


# --- unreadable images


@pytest.mark.slow
@pytest.mark.parametrize(("split", "workers"), [("train", 1), ("val", 0)])
def test_an_unreadable_image_ends_the_run_by_name_and_once_replaced_the_run_goes_on(
    own_pictures, whole, tmp_path, capsys, split, workers
):
    given = command(own_pictures, tmp_path / "out", "--workers", workers)
    order = GroupBatches(CLASSES * TRAIN, 2, 8, range(2), 3, seed=0)
    order.enter(1)  # in the second epoch, so that a checkpoint is there
    seen = next(iter(order))[0][0] if split == "train" else 0
    bad = scan(own_pictures)[split == "val"].path(seen)
    content = bad.read_bytes()
    bad.write_bytes(content[:200])
    refused(capsys, given, f"{bad} is no picture that can be read", "the same command goes on")
    bad.write_bytes(content)
    assert main(given) == 0
    assert_same_run(tmp_path / "out", whole)


@pytest.mark.parametrize("error", [PermissionError(13, "a.png cannot be opened"), MemoryError("Too little")])
def test_what_the_machine_is_at_fault_for_is_not_blamed_on_the_picture(pictures, tmp_path, capsys, monkeypatch, error):
    def fails(path):
        raise error

    monkeypatch.setattr("convit_edu.imagenet.folders.read_picture", fails)
    assert main(command(pictures, tmp_path)) == 2
    said = capsys.readouterr().err
    assert str(error) in said and "mend that, and the same command goes on" in said and "Replace" not in said


def test_what_is_left_out_is_said(own_pictures, tmp_path, capsys):
    (own_pictures / "train" / "class1" / "notes.txt").touch()
    (own_pictures / "val" / "class0" / "._01.png").touch()
    assert main(command(own_pictures, tmp_path / "out")) == 0
    said = capsys.readouterr().out
    assert f"Left out of {own_pictures}" in said and ": 2 (" in said and "60 training" in said


# --- bad input


def test_folders_that_do_not_fit(own_pictures, tmp_path, capsys):
    """The rest is tested with `pictures.class_files`."""
    refused(capsys, command(tmp_path / "nothing", tmp_path / "out"), "there is no train and no val in it")
    (own_pictures / "val" / "class2").rename(own_pictures / "val" / "klass2")
    refused(capsys, command(own_pictures, tmp_path / "out"), "the same class folders: class2, klass2 in one only")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--fraction", 0], "--fraction is a share of each class's images"),
        (["--global-batch", 20], "--global-batch 20 must be a multiple of --group 8"),
        (["--group", 1], "a group an even number of images"),
        (["--global-batch", 80], "60 training images do not fill one global batch of 80"),
        (["--model", "convit_huge"], "Unknown model 'convit_huge'; known: convit_tiny"),
        (["--model", "convit_mini_28"], "convit_mini_28 takes images of one colour; add --set in_chans=3"),
        (["--set", "dept=2"], "--set names something that no model has"),
        (["--set", "img_size=33"], "cannot be cut into patches"),
        (["--epochs", 0], "--epochs is a whole number of at least 1, not 0"),
        (["--mixup", "nan"], "--mixup is at least 0 and finite, not nan"),
        (["--epochs", 1], "--warmup-epochs 1 leave nothing of --epochs 1"),
        (["--workers", -1], "--workers is a whole number of at least 0"),
        (["--erasing", 1.5], "--erasing is at least 0"),
        (["--seed", -1], "--seed is a whole number of at least 0"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_settings_that_no_run_can_have(pictures, tmp_path, capsys, more, sentence):
    refused(capsys, command(pictures, tmp_path / "out", *more), sentence)
    assert not (tmp_path / "out").exists()


def test_processes_that_cannot_share(pictures):
    recipe = PaperRecipe().for_model("convit_tiny")
    recipe.check(10_000, world=4)
    with pytest.raises(ValueError, match=r"1024 images in groups of 128 are 8 group\(s\), which 3 processes cannot "
                                         r"share evenly; start 1, 2, 4, 8 process\(es\)"):  # fmt: skip
        recipe.check(10_000, world=3)


def test_a_device_that_is_not_there(pictures, tmp_path, capsys):
    refused(capsys, command(pictures, tmp_path, "--device", "abacus"), "Unknown device 'abacus'")
    refused(capsys, command(pictures, tmp_path, "--device", "cuda:99"), "There is no device cuda:99")


def test_more_processes_than_gpus(monkeypatch):
    alone = Ranks("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("convit_edu.imagenet.ranks.usable_device", lambda name: torch.device("cuda"))
    monkeypatch.setenv("LOCAL_RANK", "2")
    alone.world = 4
    with pytest.raises(Refusal, match=r"has 2 GPU\(s\): start as many processes"):
        alone._own("auto")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--set", "depth=3"], "set"),
        (["--fraction", 0.9], "fraction, files"),
        (["--group", 4], "recipe.group"),
        (["--model", "convit_mini_64", "--set", "img_size=32"], "model, set"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_resuming_another_run(pictures, whole, capsys, more, words):
    refused(capsys, command(pictures, whole, *more), f"is the checkpoint of another run (it differs in {words})")


def test_checkpoints_that_cannot_be_read(pictures, whole, tmp_path, capsys, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    evaluated = command(pictures, tmp_path, "--evaluate", path)
    refused(capsys, evaluated, f"{path} cannot be opened (No such file")
    path.write_bytes((whole / "checkpoint.pt").read_bytes()[:1000])
    refused(capsys, command(pictures, tmp_path), f"{path} is not a readable checkpoint", "move it away")
    refused(capsys, evaluated, f"{path} is not a readable checkpoint")
    torch.save({"identity": {}, "model": {}}, path)
    refused(capsys, evaluated, f"{path} is not a readable checkpoint")
    torch.save({"identity": {"model": "ViT", "set": {}}, "model": {"weight": 1}}, path)  # of convit_edu.train, say
    refused(capsys, evaluated, f"{path} is a checkpoint of another program")


def test_a_folder_that_cannot_be_written_to_is_found_before_the_work(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(program, "train", lambda *_: pytest.fail("the work has begun"))
    (tmp_path / "file").touch()
    refused(capsys, command(pictures, tmp_path / "file"), f"{tmp_path / 'file'}/checkpoint.pt cannot be written")


def test_two_writers_of_one_folder_are_refused(pictures, tmp_path, capsys):
    with one_writer(tmp_path / "checkpoint.pt"):
        refused(capsys, command(pictures, tmp_path), f"{tmp_path}/checkpoint.pt is being written by another run")


def test_a_full_disk_keeps_the_checkpoint_before(pictures, whole, tmp_path, capsys, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("convit_edu.saving.write_in_one_move", full)
    refused(capsys, command(pictures, tmp_path), "No space left on device")


def test_a_home_folder_is_expanded(pictures, whole, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(whole.parent))
    assert main(command(pictures, whole, "--evaluate", f"~/{whole.name}/checkpoint.pt")) == 0
    options = program._parser().parse_args(["--data", "~/in", "--out", "~/out"])
    assert (options.data, options.out) == (whole.parent / "in", whole.parent / "out")


def test_a_head_that_does_not_fit_the_classes_is_refused(pictures, tmp_path, capsys):
    files, _ = scan(pictures)
    recipe = PaperRecipe(3, 1, lr=0.05, global_batch=16, group=8)
    with pytest.raises(Refusal, match=r"tells 5 classes apart, .* has 3"):
        Training(create_model("convit_mini_32", seed=0, num_classes=5), recipe, files, Ranks("cpu"), tmp_path, {})
    with pytest.raises(SystemExit):
        main(command(pictures, tmp_path, "--set", "num_classes=5"))
    assert "leave out num_classes" in capsys.readouterr().err


def test_a_loss_that_is_no_number(pictures, whole, tmp_path, capsys, monkeypatch):
    group_loss = Training.group_loss
    factor = {4: math.nan}
    monkeypatch.setattr(Training, "group_loss", lambda self, *a: group_loss(self, *a) * factor.get(self.done, 1))
    refused(capsys, command(pictures, tmp_path), "The loss became nan at step 5;", "Try a smaller --lr")
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == STEPS


def test_what_goes_wrong_elsewhere_is_refused_here(monkeypatch):
    ranks = Ranks("cpu")
    monkeypatch.setattr(ranks, "gather", lambda value: [value, "the other rank's folder is empty"])
    with pytest.raises(Refusal, match="the other rank's folder is empty"):
        ranks.agree(lambda: "all is well here")


def test_folders_that_are_not_shared(pictures, tmp_path, monkeypatch):
    training = trained(pictures, tmp_path)[0]
    monkeypatch.setattr(training.ranks, "gather", lambda value: [value, 4])
    monkeypatch.setattr(training.ranks, "agree", lambda action: action())
    with pytest.raises(Refusal, match="Not all processes see the same"):
        training.load()
