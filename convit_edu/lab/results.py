"""Numbers from recorded runs, by label and seed."""

import json
from contextlib import suppress
from functools import lru_cache
from itertools import product
from pathlib import Path
from statistics import mean

from . import records
from .experiments import NAMES, Cell, NotSearched, Settings, check_name, choose, grid
from .intervals import Missing, paired
from .records import Runs
from .scales import SCALES, Scale

cells = lru_cache(maxsize=200)(grid)  # the same objects again: a configuration names itself once


def cells_of(name: str, scale: Scale, runs: Runs) -> list[Cell]:
    """The cells of an experiment with the learning rates of the search in these runs, or of the shipped one.

    ValueError for an unknown name, `NotSearched` where neither search is complete.
    """
    check_name(name)
    return cells(name, scale, None if name == "search" else settings(scale, runs))


@lru_cache(maxsize=100)
def settings(scale: Scale, runs: Runs) -> Settings:
    """What the search in these runs chose, where it is complete, else the shipped one. `NotSearched` if neither is."""
    try:
        return choose(recorded("search", scale, runs), scale)
    except NotSearched:
        return choose(recorded("search", scale, records.read_all(records.shipped())), scale)


def recorded(name: str, scale: Scale, runs: Runs) -> list[dict]:
    """The runs of an experiment, in the order of its grid and then by seed, each with the label of its cell."""
    return [
        {"label": cell.label} | run
        for cell in cells_of(name, scale, runs)
        for run in runs.by_config.get(cell.config.identity(0), ())
        if cell.seeds is None or run["seed"] in cell.seeds
    ]


def unasked(folder: str | Path) -> list[str]:
    """The ids of recorded runs that no experiment at any scale asks for any more; they are kept all the same."""
    runs, known = records.read_all(folder), set()
    for scale, name in product(SCALES.values(), NAMES):
        with suppress(NotSearched):
            known |= {cell.config.identity(0) for cell in cells_of(name, scale, runs)}
    return sorted(run["id"] for config in runs.by_config.keys() - known for run in runs.by_config[config])


class Results:
    """The runs of one experiment at one scale, to ask for numbers by label.

    `folder` is a folder of records; the shipped one where None.
    """

    def __init__(self, name: str, scale: str = "laptop", folder: str | Path | None = None):
        check_name(name)
        check_name(scale, SCALES, "scale")
        self.name, self.scale = name, SCALES[scale]
        found, runs = records.read_all(records.shipped() if folder is None else folder), []
        with suppress(NotSearched):  # so there is nothing that could be asked for
            runs = recorded(name, self.scale, found)
        self.runs = [run for run in runs if "result" in run]
        self.failed = [run for run in runs if "error" in run]

    def __bool__(self) -> bool:
        return bool(self.runs)

    @property
    def labels(self) -> list[dict]:
        """The labels, in the order of the grid."""
        return list({json.dumps(run["label"]): run["label"] for run in self.runs}.values())

    def select(self, **label) -> dict[int, dict]:
        """The runs with this label or, where no label is just this, with these entries in it; by seed.

        `Missing` if there is none, ValueError if there is more than one for a seed.
        """
        found = [run for run in self.runs if run["label"] == label] or [
            run for run in self.runs if all(run["label"].get(key) == value for key, value in label.items())
        ]
        where = f"of {self.name} at scale {self.scale.name} with {label}"
        if not found:
            raise Missing(f"No run {where}.")
        by_seed = {run["seed"]: run for run in found}
        if len(by_seed) < len(found):
            raise ValueError(f"More than one run a seed {where}.")
        return dict(sorted(by_seed.items()))

    def accuracy(self, after: float = 1.0, **label) -> dict[int, float]:
        """Test accuracy in per cent by seed, after a share of the training: the evaluation nearest to it."""
        return self.measured("accuracy", after, **label)

    def curve(self, **label) -> tuple[list[int], list[list[float]]]:
        """Steps, and test accuracy in per cent at each: a row a seed."""
        runs = self.select(**label).values()
        steps = sorted({int(step) for run in runs for step in run["history"]["accuracy"]})
        return steps, [[run["history"]["accuracy"][str(step)] for step in steps] for run in runs]

    def measured(self, what: str, after: float = 1.0, **label) -> dict[int, list]:
        """"nonlocality", "class_mass" or "gates" by seed, as lists (L, H), after a share of the training."""
        answer = {}
        for seed, run in self.select(**label).items():
            by_step = {int(step): value for step, value in run["history"][what].items()}
            answer[seed] = by_step[min(by_step, key=lambda step: abs(step - after * max(by_step)))]
        return answer

    def outcome(self, what: str, **label) -> dict:
        """An entry of `result` by seed: "parameters", "masking", "metric" or "teacher"."""
        return {seed: run["result"][what] for seed, run in self.select(**label).items()}

    def gained(self, **label) -> float:
        """Points of test accuracy gained in the last quarter of training, the mean over seeds."""
        return mean(paired(self.accuracy(**label), self.accuracy(after=0.75, **label)).values())
