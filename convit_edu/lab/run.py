"""One recorded run: build, train, measure; and the process that it runs in. `campaign` starts many of them."""

import copy
import platform
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import data
from ..beyond.distillation import HardDistillation, predictions
from ..beyond.recast import recast
from ..beyond.single_softmax import PSAConViT
from ..locality import forced_gates, gates, gpsa_layers, masked_positions, nonlocality
from ..model import ConViT
from ..train import Recipe, evaluate, pick_device, train
from . import records
from .run_config import RunConfig

COMPILED_FROM = 5_000  # steps on a GPU; in fewer, compiling takes more time than it saves
PROBE_IMAGES = 200  # about so many
LOSS_POINTS = 40  # the recorded loss is the mean of so many equal stretches
MOMENTS = (0, 1 / 8, 1 / 4, 1 / 2, 3 / 4)  # shares of the steps after which the weights are kept beside a checkpoint


class Probe:
    """What a probed run measures, for `train(measure=...)`: non-locality and gates.

    Given the number of `steps`, it keeps the weights too, in float16, at `MOMENTS` (see `records.moments`).
    """

    def __init__(self, images: data.Dataset, steps: int | None = None):
        self.images, self.kept = images, {round(share * steps) for share in MOMENTS} if steps else set()
        self.identity = "non-locality and gates" + (", weights" if self.kept else "")

    def __call__(self, model: ConViT, step: int) -> dict:
        found = nonlocality(model, probe_images(self.images))
        measured = {"nonlocality": found.distance, "class_mass": found.class_mass, "gates": gates(model)}
        measured = {name: rounded(value) for name, value in measured.items()}
        if step in self.kept:
            measured["weights"] = records.half(model)
        return measured


def probe_images(images: data.Dataset) -> Tensor:
    """Evenly chosen test images, normalised (B, C, h, w), on which non-locality is measured."""
    return images.normalize(images.test_images[:: max(1, len(images.test_images) // PROBE_IMAGES)])


def rounded(values: Tensor) -> list:
    """A tensor as nested lists with five decimals: what is worth keeping."""
    return [rounded(value) for value in values] if values.ndim else round(values.item(), 5)


@lru_cache(maxsize=2)
def dataset(name: str, root: str | None) -> data.Dataset:
    """A data set by the name in a configuration. FileNotFoundError says how to get what is missing."""
    if name == "imagenette":
        folder = Path(root or "data") / "imagenette2-96"
        if not folder.is_dir():
            raise FileNotFoundError(
                f"Imagenette is not in {folder}; unpack its 96-pixel version there (train/ and val/), "
                "or name its parent folder with --data."
            )
        return data.load("folder", folder, size=96)
    if name != "fashion_mnist_5k" and root is None:
        raise FileNotFoundError(
            f"{name} does not come with the package; name the folder that holds torchvision's files with --data. With "
            f"a network this fetches them: python -c \"from convit_edu import data; "
            f"data.load('{name}', 'ROOT', download=True)\""
        )
    return data.load(name, root)


def perform(config: RunConfig, seed: int, device: str, root: str | None, checkpoint: str | None) -> dict:
    """Train and measure one run: {"result", "history", "meta"} and, where asked for, bytes to keep beside it."""
    images = images_of(config, seed, root)
    model, before, earlier = starting_model(config, seed, device, root)
    recipe, loss, measure = replace(config.recipe, seed=seed), None, None
    on_device = images.to(pick_device(device))
    if config.probe:
        measure = Probe(on_device, recipe.steps if config.save else None)
    if config.teacher:
        teacher, seconds = model_before(config.teacher, seed, device, root)
        loss, earlier = HardDistillation(teacher, recipe.label_smoothing), earlier + seconds
    compiled = worth_compiling(recipe, device)
    history = train(model, images, recipe, device, checkpoint, loss=loss, measure=measure, compile=compiled)
    moments = history.measured.pop("weights", {})  # tensors: in a file of their own
    result = {"accuracy": history.final_accuracy, "parameters": sum(p.numel() for p in model.parameters())}
    result |= before
    if config.teacher:
        result["teacher"] = advice(model, teacher, on_device)
    if config.probe:
        result |= {"masking": masked_accuracy(model, on_device, device), "metric": both_metrics(model, on_device)}
    stretch = max(1, len(history.loss) // LOSS_POINTS)
    losses = [history.loss[start : start + stretch] for start in range(0, len(history.loss), stretch)]
    answer = {
        "result": result,
        "history": {
            "accuracy": history.accuracy, "loss": [round(sum(part) / len(part), 5) for part in losses],
            **history.measured,
        },
        "meta": metadata(device, images, earlier + history.seconds),
    }  # fmt: skip
    if config.save:
        run_id = config.identity(seed)
        answer["weights"] = records.weights_bytes(model, run_id)
        answer["moments"] = records.weights_bytes(model, run_id, moments)
    return answer


def worth_compiling(recipe: Recipe, device: str) -> bool:
    return device.startswith("cuda") and recipe.steps >= COMPILED_FROM


def images_of(config: RunConfig, seed: int, root: str | None) -> data.Dataset:
    """The images that a configuration trains and tests on."""
    images = dataset(config.data, root)
    if config.held_out:
        images = images.held_out()  # the same tenth for every seed and arm
    if config.fraction < 1:
        images = images.subset(fraction=config.fraction, seed=seed)
    if some := config.test_images:
        images = replace(images, test_images=images.test_images[:some], test_labels=images.test_labels[:some])
    return images


@lru_cache(maxsize=8)
def model_before(config: RunConfig, seed: int, device: str, root: str | None) -> tuple[nn.Module, float]:
    """A model that a run needs trained before it, and the seconds that took; trained once for all runs of a process."""
    model, recipe = config.build(seed), replace(config.recipe, seed=seed)
    compiled = worth_compiling(recipe, device)
    history = train(model, images_of(config, seed, root), recipe, device, compile=compiled)
    return model.eval(), history.seconds


def starting_model(config: RunConfig, seed: int, device: str, root: str | None) -> tuple[nn.Module, dict, float]:
    """The model that a run trains, what is to be recorded of it beforehand, and the seconds spent on it already.

    Where the configuration has a `start` it is a network trained before; with `recast`, as GPSA layers.
    """
    if config.start is None:
        return config.build(seed), {}, 0.0
    trained, seconds = model_before(config.start, seed, device, root)
    images, model = images_of(config, seed, root), copy.deepcopy(trained).train()
    before = {"start": evaluate(model, images, device)}
    if how := config.recast:
        exact = recast(model, how["strength"], seed=seed)
        before["recast"] = evaluate(exact, images, device)
        model = recast(model, **how, seed=seed)
        before["gates lowered"] = evaluate(model, images, device)
    return model, before, seconds


def advice(student: nn.Module, teacher: nn.Module, images: data.Dataset) -> dict:
    """How good the teacher is, in per cent: on test and training images, and how often the student agrees with it."""
    found = {}
    for name, pictures, labels in (
        ("accuracy", images.test_images, images.test_labels), ("on training images", images.train_images,
                                                               images.train_labels),
    ):  # fmt: skip
        said = predictions(teacher, pictures, images)
        found[name] = round(100 * (said == labels).cpu().double().mean().item(), 2)
    said, own = (predictions(model, images.test_images, images) for model in (teacher, student))
    return found | {"agreement": round(100 * (said == own).cpu().double().mean().item(), 2)}


def masked_accuracy(model: ConViT, images: data.Dataset, device: str) -> dict:
    """Tables 5 and 6: accuracy in per cent with absolute positions, content or position masked at test time."""
    with masked_positions(model):
        found: dict[str, object] = {"absolute positions": evaluate(model, images, device)}
    layers = gpsa_layers(model)
    if layers and not isinstance(model, PSAConViT):  # which has no gates
        for what, gate in (("content", 1), ("position", 0)):
            found[what] = []  # masked in the first layer, in the first two, ...
            for number in range(1, len(layers) + 1):
                with forced_gates(model, gate, number):
                    found[what].append(evaluate(model, images, device))
    return found


def both_metrics(model: ConViT, images: data.Dataset) -> dict:
    """Non-locality (L, H) of the trained model on its true inputs and by the published shortcut."""
    probe = probe_images(images)
    return {name: rounded(nonlocality(model, probe, shortcut=cut).distance) for name, cut in
            (("true", False), ("shortcut", True))}  # fmt: skip


def metadata(device: str, images: data.Dataset, seconds: float) -> dict:
    """Where, when and on what a run was made."""
    on_gpu = device.startswith("cuda")
    return {
        "seconds": round(seconds, 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if on_gpu else device,
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
        "data": images.checksum(),
    }


@lru_cache
def processor() -> str:
    """The processor's name."""
    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        return names[0].split(":", 1)[1].strip()
    except (OSError, IndexError):
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()


@lru_cache
def commit() -> str | None:
    """The commit of the checkout that the package runs from; None where it is installed."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    return _output("git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
