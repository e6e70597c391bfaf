"""Whether a scale's regime can answer what is asked of it: looked at before anything is compared.

With many images and steps a network should learn; with few images it should run out of images and not of steps; and
one seed should differ little from another.
"""

import math
from dataclasses import dataclass
from statistics import mean

from .intervals import Estimate, compare
from .results import Results
from .tables import Table, percent

NEAR = 0.1  # nats above the floor that still count as near it
SPREAD = 2.0  # points: the largest deviation of a paired difference


@dataclass(frozen=True)
class Check:
    """One thing looked at: what, where, what was found, what was asked for, and whether it was met."""

    what: str
    where: str
    found: str
    asked: str
    met: bool


def floor(smoothing: float, classes: int) -> float:
    """The least training loss in nats: the entropy of the smoothed labels (Szegedy et al., 2016)."""
    rest = smoothing / classes
    shares = [1 - smoothing + rest] + [rest] * (classes - 1)
    return -sum(share * math.log(share) for share in shares if share)


def final_loss(results: Results, **label) -> float:
    """The mean training loss of the last stretch of a run, the mean over seeds."""
    return mean(run["history"]["loss"][-1] for run in results.select(**label).values())


def checks(results: Results, steps: int) -> list[Check]:
    """The regime of the runs of `sample_efficiency` after so many steps, for the arms that are recorded."""
    budgets = results.scale.budgets
    few, found = min(budgets[steps]), []
    recorded = {label["arm"] for label in results.labels if label["steps"] == steps}
    for arm in [arm for arm in ("ConViT", "DeiT", "CNN") if arm in recorded]:
        small, whole = ({"arm": arm, "fraction": share, "steps": steps} for share in (few, 1.0))
        brings: Estimate = compare(results.accuracy(**whole), results.accuracy(**small))
        found.append(Check(f"all images against {percent(few)}", arm, f"{brings.signed} points", "above 0",
                           brings.low > 0))  # fmt: skip
        config = next(iter(results.select(**small).values()))["config"]
        least = floor(config.recipe.label_smoothing, config.model["num_classes"])
        loss = final_loss(results, **small)
        found.append(Check(f"training loss with {percent(few)}", arm, f"{loss:.2f}", f"at most {least + NEAR:.2f}",
                           loss <= least + NEAR))  # fmt: skip
    for share in budgets[steps]:
        pair = (results.accuracy(arm=arm, fraction=share, steps=steps) for arm in ("ConViT", "DeiT"))
        spread = compare(*pair).deviation
        found.append(Check("deviation of a paired difference", percent(share), f"{spread:.1f} points",
                           f"at most {SPREAD:.0f}", spread <= SPREAD))  # fmt: skip
    return found


def table(results: Results) -> Table:
    """`checks` at every budget of a scale."""
    rows = [
        [f"{steps:,}", check.what, check.where, check.found, check.asked, "yes" if check.met else "no"]
        for steps in results.scale.budgets
        for check in checks(results, steps)
    ]
    return Table(f"The regime, {results.scale.name}", ["steps", "looked at", "of", "found", "asked for", "met"], rows)
