"""The regime check: what it looks at, and that it notices when a regime is not good enough."""

import math

import pytest

from convit_edu.lab import regime
from convit_edu.lab.experiments import Settings, grid
from convit_edu.lab.intervals import compare
from convit_edu.lab.results import Results
from convit_edu.lab.scales import LAPTOP

SETTINGS = Settings(dict.fromkeys(LAPTOP.rates, 1e-3), "DeiT, few heads")
GOOD = {(0.05, "ConViT"): 75, (0.05, "DeiT"): 69,
        (1.0, "ConViT"): 81, (1.0, "DeiT"): 76, (0.05, "CNN"): 78, (1.0, "CNN"): 87}  # fmt: skip


def results(level=GOOD, loss=0.52, spread=1.0):
    """Runs of sample_efficiency that nobody made. `spread`: how far DeiT's seeds stray from ConViT's."""
    found = Results.__new__(Results)
    found.name, found.scale, found.failed, found.runs = "sample_efficiency", LAPTOP, [], []
    for cell in grid("sample_efficiency", LAPTOP, SETTINGS):
        for seed, luck in enumerate((-1, -0.5, 0, 0.5, 1)):
            arm, share = cell.label["arm"], cell.label["fraction"]
            accuracy = level[share, arm] + luck * spread * (arm == "DeiT")
            run = {"label": cell.label, "config": cell.config, "seed": seed, "result": {"accuracy": accuracy}}
            run["history"] = {"loss": [2.3, loss if share < 1 else 0.9], "accuracy": {"1200": accuracy}}
            found.runs.append(run)
    return found


def unmet(**given):
    return [(check.what, check.where) for check in regime.checks(results(**given), 1200) if not check.met]


def test_a_good_regime_passes_and_every_fault_is_named():
    assert unmet() == [] and len(regime.checks(results(), 1200)) == 8
    assert unmet(level=GOOD | {(1.0, "DeiT"): 65}) == [("all images against 5 %", "DeiT")]
    # As many images, as much accuracy: more of them are not shown to help.
    assert unmet(level=GOOD | {(1.0, "DeiT"): 69}) == [("all images against 5 %", "DeiT")]
    assert unmet(loss=0.7) == [("training loss with 5 %", arm) for arm in ("ConViT", "DeiT", "CNN")]
    assert unmet(spread=4.0) == [("deviation of a paired difference", share) for share in ("5 %", "100 %")]


def test_the_table_has_every_budget():
    table = regime.table(results())
    assert {row[0] for row in table.rows} == {"300", "1,200"}
    row = next(row for row in table.rows if row[1].startswith("deviation") and row[2] == "5 %")
    pair = (results().accuracy(arm=arm, fraction=0.05, steps=1200) for arm in ("ConViT", "DeiT"))
    assert row[3] == f"{compare(*pair).deviation:.1f} points"


def test_the_floor_of_the_loss_is_the_entropy_of_smoothed_labels():
    assert regime.floor(0.0, 10) == 0
    assert regime.floor(0.1, 10) == pytest.approx(-0.91 * math.log(0.91) - 9 * 0.01 * math.log(0.01))
    assert regime.floor(1.0, 10) == pytest.approx(math.log(10))
