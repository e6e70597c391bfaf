"""What a recorded run is: its images, its network and its recipe, the identity that follows from them, the model."""

import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, lru_cache

import torch
from torch import nn

from ..beyond.cnn import CNN
from ..beyond.initial_weights import STARTS
from ..beyond.recast import POSITION_ONLY, PatchCNN, WideConViT
from ..beyond.single_softmax import PSAConViT
from ..locality import gpsa_layers
from ..model import ConViT
from ..train import Recipe

NETWORKS: dict[str, type[nn.Module]] = {
    "ConViT": ConViT, "CNN": CNN, "PatchCNN": PatchCNN, "WideConViT": WideConViT,
}  # fmt: skip


def create(network: str, model: dict) -> nn.Module:
    """One of `NETWORKS` with these arguments; "mixing" among them, as records have it, says which ConViT it is."""
    given = {name: value for name, value in model.items() if name != "mixing"}
    single_softmax = model.get("mixing") == "single_softmax"
    return (PSAConViT if single_softmax else NETWORKS[network])(**given)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run's numbers but its seed, which fixes subset, initial weights, order, augmentation.

    Attributes:
        data: name of the data set.
        network, model: which of `NETWORKS`, and the arguments it is built with, defaults included.
        recipe: how it is trained; its seed is the run's.
        fraction: share of the training images.
        held_out: train and test on training images alone: a tenth of them, the same for all, to test on.
        freeze: "gate" (at 1/2, not trained), "attention" (all of it, position only), or nothing.
        initial: the initial weights, one of `STARTS`, or the network's own.
        probe: measure non-locality and gates on the way, and masking and the shortcut at the end.
        save: the name under which the trained weights are kept, or nothing.
        test_images: how many test images are used; 0 is all.
        teacher: the run whose network teaches this one.
        start: the run whose network this one goes on from; with `recast`, {"strength", "gate"}, as GPSA layers.

    Raises ValueError for a configuration that cannot be run.
    """

    data: str
    model: dict
    recipe: Recipe
    network: str = "ConViT"
    fraction: float = 1.0
    held_out: bool = False
    freeze: str = ""
    initial: str = ""
    probe: bool = False
    save: str = ""
    test_images: int = 0
    teacher: "RunConfig | None" = None
    start: "RunConfig | None" = None
    recast: dict | None = None

    def __post_init__(self):
        for value, known in ((self.network, NETWORKS), (self.freeze, ("", "gate", "attention")), (self.initial, (
                "", *STARTS))):  # fmt: skip
            if value not in known:
                raise ValueError(f"A configuration knows {', '.join(filter(None, known))}, not {value!r}.")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"A run needs a share of the images in (0, 1], not {self.fraction}.")
        object.__setattr__(self, "model", json.loads(json.dumps(self.model)))  # tuples as lists, as a record has them
        object.__setattr__(self, "recipe", replace(self.recipe, seed=0))

    def as_json(self) -> dict:
        """As it stands in a record. What is off is left out: an option added later, off by default, renames no run."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "network"}
        kind = {} if self.network == "ConViT" else {"kind": self.network}
        found |= {"model": kind | self.model, "recipe": with_defaults(type(self.recipe), asdict(self.recipe))}
        found |= {name: before.as_json() for name in ("teacher", "start") if (before := getattr(self, name))}
        return {name: value for name, value in found.items() if value}

    @classmethod
    def from_json(cls, found: dict) -> "RunConfig":
        """The configuration of a record. ValueError if this version knows no such thing."""
        try:
            model = dict(found["model"])
            network = model.pop("kind", "ConViT")
            before = {name: cls.from_json(found[name]) for name in ("teacher", "start") if name in found}
            return cls(**found | before | dict(network=network, model=model, recipe=Recipe(**found["recipe"])))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is no configuration of a run that this version knows: {error}") from error

    def __hash__(self) -> int:
        return hash(self._text)

    def identity(self, seed: int) -> str:
        """The name of the run with this seed: 16 hexadecimal digits that depend on nothing else."""
        return hashlib.sha256(f"[{self._text},{seed}]".encode()).hexdigest()[:16]

    @cached_property
    def _text(self) -> str:
        return json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"))

    def build(self, seed: int) -> nn.Module:
        """The model with its initial weights and with what is frozen; torch's random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = create(self.network, self.model)
            if self.initial:
                STARTS[self.initial](model)
        for layer in gpsa_layers(model) if self.freeze else ():
            # Rows f and g of Table 3 are position only; the other rows without gating mix half and half.
            layer.gating_param.data.fill_(POSITION_ONLY if self.freeze == "attention" else 0.0)
            for parameter in layer.parameters() if self.freeze == "attention" else [layer.gating_param]:
                parameter.requires_grad_(False)
        return model


def with_defaults(function: Callable, given: dict) -> dict:
    """All arguments of a call, defaults included, but for those that are off by default and left off."""
    defaults = _defaults(function)
    return {name: value for name, value in (defaults | given).items() if value or defaults[name]}


@lru_cache
def _defaults(function: Callable) -> dict:
    return {name: p.default for name, p in inspect.signature(function).parameters.items() if name != "self"}
