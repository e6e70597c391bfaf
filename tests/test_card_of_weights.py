"""The card beside the shipped weights says what their records say."""

import json

import pytest
from safetensors import safe_open

from convit_edu.lab.records import shipped

FOLDER = shipped() / "laptop"
ROWS = [
    [cell.strip(" `") for cell in line.strip("|").split("|")]
    for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
]


def test_every_network_has_a_row():
    networks = {path.name for path in FOLDER.glob("*.safetensors") if path.stem.count(".") == 0}
    assert {row[0] for row in ROWS} == networks != set()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_is_its_record(row):
    name, network, parameters, steps, seed, accuracy, run = row
    with safe_open(FOLDER / name, "pt") as file:
        about = json.loads(file.metadata()["convit_edu"])
        size = sum(file.get_tensor(key).numel() for key in file.keys())
    record = json.loads((shipped() / "runs" / f"{run}.json").read_text(encoding="utf-8"))
    assert about["run"] == run
    assert network == ("ConViT" if record["config"]["model"]["local_up_to_layer"] else "DeiT")
    assert parameters == f"{size:,}" == f"{record['result']['parameters']:,}"
    assert (steps, seed) == (f"{record['config']['recipe']['steps']:,}", str(record["seed"]))
    assert accuracy == f"{record['result']['accuracy']} %"
    assert record["config"]["data"] in (FOLDER / "README.md").read_text(encoding="utf-8")
