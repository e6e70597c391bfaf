"""What the benchmarks of whole models share: the four models, their training and inference steps, measuring them."""

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import harness
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convit_edu import create_model, data
from convit_edu.parity import from_timm, relative_difference, timm, to_timm
from convit_edu.train import Recipe, parameter_groups
from convit_edu.train import training_step as step_of_train

LABELS = {"convit": "ConViT", "timm_convit": "timm's ConViT", "deit": "DeiT", "timm_deit": "timm's ViT"}
REFERENCES = ("timm_convit", "deit", "timm_deit")
MODES = ("inference", "training")  # and "loop": a whole step of `train`, with its data
GMACS = {"convit_mini_28": 0.02, "convit_tiny": 1.26, "convit_small": 5.76, "convit_base": 17.52}  # for one image


@dataclass(frozen=True)
class Case:
    model: str
    mode: str
    precision: str
    device: str
    compiled: bool
    batch: int


def twins(name: str, device: str) -> dict[str, nn.Module]:
    """A ConViT and the DeiT of equal width, ours and timm's: each pair has the same weights and outputs."""
    convit = create_model(name, seed=0)
    shared = ("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads", "qkv_bias")
    torch.manual_seed(0)
    timm_deit = timm.models.vision_transformer.VisionTransformer(**{key: convit.config[key] for key in shared})
    models = {"convit": convit, "timm_convit": to_timm(convit), "deit": from_timm(timm_deit), "timm_deit": timm_deit}
    models = {row: model.to(device).train() for row, model in models.items()}
    images = torch.randn(2, *convit.patch_embed.input_shape, device=device)  # timm keeps its offsets where it first ran
    with torch.no_grad():
        for kind in ("convit", "deit"):
            difference = relative_difference(models[kind](images), models[f"timm_{kind}"](images))
            assert difference < 1e-3, f"timm's {kind} differs from ours by {difference}"
    return models


def training_step(model: nn.Module, forward: Callable, images: Tensor, labels: Tensor, precision: str):
    """A function that does one training step: forward, loss, backward, AdamW."""
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-4)

    def step() -> None:
        with harness.autocast(images.device.type, precision):
            logits = forward(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def inference_step(model: nn.Module, forward: Callable, images: Tensor, labels: Tensor, precision: str):
    """A function that does one forward pass without gradients."""
    model.eval()

    @torch.no_grad()
    def step() -> None:
        with harness.autocast(images.device.type, precision):
            forward(images)

    return step


def whole_step(name: str, layers: int | None, case: Case):
    """A function that does one step as `train` does it: choosing images, augmenting, normalising, and the step."""
    model = create_model(name, seed=0, **({} if layers is None else {"local_up_to_layer": layers}))
    recipe = Recipe(batch_size=case.batch, precision=case.precision)
    device = torch.device(case.device)
    model, images = model.to(device).train(), data.load("fashion_mnist_5k").to(device)
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe.weight_decay))
    forward = torch.compile(model) if case.compiled else model
    indices, steps = torch.randint(len(images.train_labels), (case.batch,)), itertools.count()
    return lambda: step_of_train(forward, optimizer, images, recipe, recipe.loss, next(steps), indices)


def measure(case: Case, options: argparse.Namespace) -> harness.Measured:
    """Time, and for a training step peak memory, of the four models; of our own two where the loop is measured."""
    torch.compiler.reset()
    if case.mode == "loop":
        calls = {"convit": whole_step(case.model, None, case), "deit": whole_step(case.model, 0, case)}
        found = {row: {"times": times} for row, times in harness.interleaved(calls, case.device, options).items()}
        if case.device == "cuda":
            for row, call in calls.items():
                found[row]["gpu_busy"] = harness.gpu_busy(call)
        return found
    models = twins(case.model, case.device)
    convit = models["convit"]
    images = torch.randn(case.batch, *convit.patch_embed.input_shape, device=case.device)
    labels = torch.randint(convit.config["num_classes"], (case.batch,), device=case.device)
    work = training_step if case.mode == "training" else inference_step
    calls = {
        row: work(model, torch.compile(model) if case.compiled else model, images, labels, case.precision)
        for row, model in models.items()
    }
    return harness.times_and_memory(calls, case, options)


def estimate(case: Case, options: argparse.Namespace) -> float:
    """Seconds that `measure` takes, at 100 Gflop/s, with timm's ConViT counted twice."""
    if case.device == "cuda":
        return 2 * options.seconds + 60 * case.compiled
    once = 5 * case.batch * GMACS[case.model] * (6 if case.mode == "training" else 2) / 100
    return (2 + harness.expected_rounds(once, options)) * once + 60 * case.compiled


def benchmark(name: str, seconds: tuple[float, float]) -> harness.Benchmark:
    return harness.Benchmark(name, LABELS, REFERENCES, measure, estimate, seconds)
