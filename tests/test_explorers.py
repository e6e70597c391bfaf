"""Explorers without a browser: what stands in them, what it weighs, and that their numbers are the package's."""

import base64
import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
import test_book
import torch
from PIL import Image

from convit_edu import GPSA, data, locality
from convit_edu.book import explorers as module
from convit_edu.book import stills
from convit_edu.lab import experiments, packing, records, report
from convit_edu.lab import run as worker
from convit_edu.lab.scales import SCALES
from convit_edu.positions import positional_scores
from convit_edu.train import train

SVG = "http://www.w3.org/2000/svg"
random = np.random.default_rng(0)


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def recorded():
    return {arm: records.attention(arm.lower()).steps for arm in ("ConViT", "DeiT")}


def cells():
    """The recorded learning curves of both arms with their gap."""
    results, found = report.Results("sample_efficiency"), {}

    def spread(rows):
        return [(e.mean, e.half) for e in map(report.estimate, zip(*rows))]

    for label in results.labels:
        if label["arm"] == "ConViT":
            (x, ours), (_, theirs) = results.curve(**label), results.curve(**label | {"arm": "DeiT"})
            lines = {"ConViT": ours, "DeiT": theirs, "gap": np.subtract(ours, theirs)}
            found[label["steps"], label["fraction"]] = x, {name: spread(rows) for name, rows in lines.items()}
    return found


@pytest.fixture(scope="module")
def boot():
    return data.load("fashion_mnist_5k").test_images[worker.PICTURE, 0]  # (28, 28)


@pytest.fixture(scope="module")
def explorers(boot):
    content, position = softmax(random.normal(size=(3, 9, 49, 49))), random.normal(size=(3, 9, 3))
    return {
        "positional": module.positional_explorer(),
        "gate": module.gate_explorer(boot, content, position, random.uniform(size=(3, 9))),
        "trained": module.trained_explorer(boot, recorded()),
        "curves": module.curves_explorer(cells()),
    }


KINDS = ("positional", "gate", "trained", "curves")


# --- an output stands alone


def still(explorer):
    (address,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', explorer._repr_html_())
    return base64.b64decode(address).decode()


@pytest.mark.parametrize("kind", KINDS)
def test_an_explorer_asks_for_nothing(explorers, kind):
    page, picture = explorers[kind]._repr_html_(), still(explorers[kind])
    assert re.findall(r"https?:", page) == [] and re.findall(r"https?:[^\"]*", picture) == [SVG]
    assert set(re.findall(r"(?:src|href)=\"(\w+:)", page + picture)) == {"data:"}
    assert not re.search(r"<link|@import|@font-face|fetch\(|XMLHttpRequest|import\(|WebSocket", page)
    assert set(re.findall(r"url\((\w+)", page)) <= {"data"}
    assert set(re.findall(r"url\((#?\w+)", picture)) <= {"#v"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_notebook_may_hold_it(explorers, kind):
    bundle = explorers[kind]._repr_mimebundle_()
    assert bundle == {"text/plain": repr(explorers[kind]), "text/html": explorers[kind]._repr_html_()}
    output = {"output_type": "execute_result", "data": bundle}
    nb = {"cells": [{"cell_type": "code", "source": "shown", "metadata": {}, "outputs": [output]}]}
    for rule in (test_book.no_local_path, test_book.images_have_alt, test_book.no_remote_image):
        assert rule(nb) == [], rule.__name__
    assert not test_book.PROGRESS.search(bundle["text/html"])


def test_what_it_weighs(explorers):
    script = module._source("explorers.js")
    assert len(script.encode()) <= 12_000 and len(module._source("explorers.css").encode()) <= 4_000
    inside = script + "".join(explorer.parts for explorer in module.values())
    assert not re.search("</script|<!--", inside, re.I)  # nothing in a script element ends it
    weights = {kind: len(explorer._repr_html_().encode()) for kind, explorer in module.items()}
    assert weights["trained"] <= 400_000 and weights["gate"] <= 125_000
    assert weights["positional"] <= 25_000 and weights["curves"] <= 70_000


class Elements(HTMLParser):
    """Every element with its attributes, and the text inside each label."""

    def __init__(self, page):
        super().__init__()
        self.found, self.labels, self.open = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag == "label":
            self.open = True
            self.labels.append("")
        assert tag not in ("input", "select") or self.open, "a control outside of a label"

    def handle_endtag(self, tag):
        self.open = self.open and tag != "label"

    def handle_data(self, text):
        if self.open and self.labels:
            self.labels[-1] += text


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_described_and_its_controls_have_labels(explorers, kind):
    explorer = explorers[kind]
    page = Elements(explorer._repr_html_())
    assert not {"input", "select", "button"} & {tag for tag, _ in page.found}  # until the script puts them there
    (root,) = [attributes for _, attributes in page.found if attributes.get("class") == "convit-explorer"]
    (picture,) = [attributes for tag, attributes in page.found if tag == "img"]
    assert root["role"] == "group" and root["aria-label"] == explorer.title
    assert picture["alt"] == explorer.words and len(explorer.words) > 80 and explorer.words in repr(explorer)
    page = Elements(explorer.parts)
    (live,) = [attributes for _, attributes in page.found if attributes.get("aria-live") == "polite"]
    assert live["role"] == "status"
    controls = [attributes["name"] for tag, attributes in page.found if tag in ("input", "select")]
    assert len(page.labels) == len(controls) == len(set(controls)) and all(label.strip() for label in page.labels)
    grids = [attributes["aria-label"] for _, attributes in page.found if attributes.get("role") == "grid"]
    assert len(set(grids)) == len(grids) == {"positional": 3, "gate": 4, "trained": 2, "curves": 0}[kind]


def test_importing_it_needs_neither_timm_nor_matplotlib_nor_training():
    code = "import sys, convit_edu.book.explorers; print({'timm', 'matplotlib', 'convit_edu.train'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


# --- packing


def as_bytes(text):
    """The way back from `packing.as_text`."""
    back = {new: old for old, new in packing.SIGNS.items()}
    return np.frombuffer(base64.b85decode(text.translate({new: chr(old) for new, old in back.items()})), np.uint8)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tokens", [1, 4, 49, 50])
def test_packing_loses_at_most_half_a_step(bits, tokens):
    values = softmax(random.normal(scale=3, size=(2, 3, 20, tokens)))
    values[0, 0, 0] = np.eye(tokens)[0]
    packed = packing.pack(values, bits)
    assert packed.dtype == np.uint8 and packed.shape == (2, 3, 20, 2 + -(-tokens * bits // 8))
    back = packing.unpack(packed, tokens, bits)
    top = back.max(-1, keepdims=True)
    assert np.all(np.abs(top - values.max(-1, keepdims=True)) <= 1 / 65535)
    assert np.all(np.abs(back - values) <= top / (2**bits - 1) / 2 * (1 + 1e-9))
    assert np.array_equal(packing.pack(back, bits), packed)  # what was recorded packed is shown as it is
    text = packing.as_text(packed)
    assert not set("<&%\\\"'/") & set(text) and np.array_equal(as_bytes(text)[: packed.size], packed.ravel())


def test_packing_refuses_what_is_no_attention():
    for values in ([], [0.5, -0.1], [0.2, 1.5], [np.nan, 0.5], np.ones(())):
        with pytest.raises(ValueError, match="numbers from 0 to 1, and it is not empty"):
            packing.pack(values)
    with pytest.raises(ValueError, match="at 4 or 8 bits, not 5"):
        packing.pack([0.5], 5)
    with pytest.raises(ValueError, match="rows of 27 bytes do not hold 40 values at 4 bits"):
        packing.unpack(np.zeros((49, 27), np.uint8), 40)


# --- the numbers are the package's


@pytest.mark.parametrize("grid", [(7, 7), (3, 5), (14, 14)])
def test_the_closed_form_is_the_packages_attention(grid):
    v_pos = torch.tensor(random.normal(size=(4, 3)))
    whole = positional_scores(v_pos, torch.zeros(4).double(), grid).softmax(-1).numpy()  # (4, N, N)
    for head in range(4):
        for query in range(grid[0] * grid[1]):
            found = module.positional_attention(v_pos[head].tolist(), grid, query)
            np.testing.assert_allclose(found, whole[head, query], rtol=0, atol=1e-14)


def test_a_gaussian_is_where_gpsa_starts():
    layer = GPSA(54, 9, locality_strength=1.5)
    for head, centre in enumerate([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)]):
        assert layer.pos_proj.weight[head].tolist() == list(module.gaussian(1.5, centre))


def test_the_gate_explorer_holds_what_it_was_given(boot):
    content, position, gates = softmax(random.normal(size=(2, 4, 49, 49))), random.normal(size=(2, 4, 3)), np.eye(2, 4)
    given = module.gate_explorer(boot, torch.tensor(content), torch.tensor(position), torch.tensor(gates)).data
    assert given["grid"] == [7, 7] and given["gates"] == gates.tolist()
    np.testing.assert_allclose(given["position"], position, atol=1e-9)
    for layer in range(2):
        packed = as_bytes(given["content"][layer])[: 4 * 49 * 51].reshape(4, 49, 51)
        back = packing.unpack(packed, 49, 8)
        assert np.all(np.abs(back - content[layer]) <= back.max(-1, keepdims=True) / 510 * (1 + 1e-9))


def test_the_explorer_of_trained_models_holds_what_was_recorded(explorers):
    models = explorers["trained"].data["models"]
    assert [model["name"] for model in models] == ["ConViT", "DeiT"]
    for model, steps in zip(models, recorded().values()):
        assert model["tokens"] == [a.shape[-1] for a in steps[0]]
        for texts, layers in zip(model["maps"], steps.values(), strict=True):
            for text, attention in zip(texts, layers, strict=True):
                heads, tokens, _ = attention.shape
                size = 2 + (tokens + 1) // 2
                packed = as_bytes(text)[: heads * tokens * size].reshape(heads, tokens, size)
                np.testing.assert_allclose(packing.unpack(packed, tokens), attention, atol=1e-15)


def test_the_curves_are_the_records(explorers):
    held, results = explorers["curves"].data["cells"], report.Results("sample_efficiency")
    assert [(cell["steps"], cell["share"]) for cell in held] == [(300, 0), (300, 1), (300, 2), (1200, 0), (1200, 2)]
    assert len(held) == len(cells())
    for cell, (steps, fraction) in zip(held, cells()):
        where = dict(steps=steps, fraction=fraction)
        arms = [results.accuracy(arm=arm, **where) for arm in ("ConViT", "DeiT")]
        wanted = [report.estimate(arm.values()) for arm in arms] + [report.compare(*arms)]
        last = cell["values"][-1]
        for name, estimate in zip(("ConViT", "DeiT", "gap"), wanted, strict=True):
            assert last[name] == [pytest.approx(estimate.mean, abs=1e-6), pytest.approx(estimate.half, abs=1e-6)]
        assert f"gap {wanted[2].signed} points" in cell["words"][-1] and cell["words"][-1] in explorers["curves"].words


def test_one_seed_has_no_interval():
    line = [(50.0, float("nan")), (60.0, float("nan"))]
    explorer = module.curves_explorer({(10, 1.0): ([5, 10], dict.fromkeys(NAMES, line))})
    assert "NaN" not in json.dumps(explorer.data) and explorer.data["cells"][0]["values"][1]["gap"] == [60.0, None]
    assert "±" not in explorer.words


# --- the recording


def test_the_recorded_attention_is_that_of_the_shipped_checkpoints():
    fashion = data.load("fashion_mnist_5k")
    for arm in ("convit", "deit"):
        found, model = records.attention(arm), records.checkpoint(arm)
        assert found.picture == worker.PICTURE and list(found.steps) == [0, 600, 1200]
        image = fashion.normalize(fashion.test_images[found.picture : found.picture + 1])
        for recorded, weights in zip(found.steps[1200], locality.attention_on(model, image), strict=True):
            top = recorded.max(-1, keepdims=True)
            assert np.all(np.abs(recorded - weights[0].numpy()) <= top / 30 + 0.01)  # the weights are in float16
            assert np.all(np.abs(recorded.sum(-1) - 1) <= top[..., 0] / 30 * recorded.shape[-1])
        assert not np.allclose(found.steps[0][0], found.steps[1200][0], atol=0.02)


def rehearsal():
    scale = SCALES["laptop-rehearsal"]
    settings = experiments.choose(records.read(records.path_of(records.shipped(), "laptop", "search")), scale)
    return experiments.grid("checkpoints", scale, settings)


def test_a_run_that_is_saved_records_its_attention_and_nothing_else_changes(tmp_path):
    config = rehearsal()[0].config
    torch.set_num_threads(1)
    first, again = (worker.perform(config, 0, "cpu", None, None) for _ in range(2))
    assert first["attention"] == again["attention"] and first["weights"] == again["weights"]
    unsaved = worker.perform({key: value for key, value in config.items() if key != "save"}, 0, "cpu", None, None)
    assert set(unsaved) == {"result", "history", "meta"}
    assert {key: first[key] for key in ("result", "history")} == {key: unsaved[key] for key in ("result", "history")}
    records.write_bytes(tmp_path / "laptop" / "convit.attention.safetensors", first["attention"])
    found = records.attention("convit", folder=tmp_path)
    assert list(found.steps) == [0, config["recipe"]["steps"]]  # a rehearsal is not measured in its middle
    assert [a.shape for a in found.steps[0]] == [(9, 49, 49)] * 3 + [(9, 50, 50)]


def test_an_interrupted_run_keeps_the_attention_of_its_start(tmp_path):
    config, fashion = rehearsal()[0].config, data.load("fashion_mnist_5k")
    fashion = dataclasses.replace(fashion, test_images=fashion.test_images[:50], test_labels=fashion.test_labels[:50])
    recipe = worker.Recipe(**config["recipe"] | {"evaluations": 2})
    probe = worker.Probe(fashion, recipe.steps)

    def stopped(model, step):
        if step == recipe.steps:
            raise KeyboardInterrupt
        return probe(model, step)

    def run(measure, **options):
        return train(experiments.build(config, 0), fashion, recipe, "cpu", measure=measure, **options)

    stopped.identity = probe.identity
    with pytest.raises(KeyboardInterrupt):
        run(stopped, checkpoint=tmp_path / "run.pt")
    histories = run(probe, checkpoint=tmp_path / "run.pt"), run(probe)
    resumed, whole = (history.measured["attention"] for history in histories)
    assert list(resumed) == list(whole) == [0, recipe.steps // 2, recipe.steps]
    assert all(torch.equal(*pair) for step in whole for pair in zip(resumed[step], whole[step], strict=True))


def test_a_missing_or_damaged_recording_is_named(tmp_path):
    with pytest.raises(records.RecordError, match=r"no recorded attention .*run checkpoints, into a new folder"):
        records.attention("convit", folder=tmp_path)
    for bad in (b"", b"x" * 100, records.attention_bytes({0: [torch.zeros(1, 4, 9).byte()]}, 0, "an id")):
        records.write_bytes(tmp_path / "laptop" / "convit.attention.safetensors", bad)
        with pytest.raises(records.RecordError, match=r"convit\.attention\.safetensors is no readable recorded attent"):
            records.attention("convit", folder=tmp_path)


# --- still pictures


@pytest.mark.parametrize("kind", KINDS)
def test_the_still_picture_is_drawn(explorers, kind):
    picture = ElementTree.fromstring(still(explorers[kind]))
    count = {what: len(picture.findall(f".//{{{SVG}}}{what}")) for what in ("image", "polyline", "polygon")}
    wanted = {"positional": (2, 0, 0), "gate": (4, 0, 0), "trained": (7, 0, 0), "curves": (0, 15, 15)}[kind]
    assert tuple(count.values()) == wanted
    texts = " ".join(text.text for text in picture.iter(f"{{{SVG}}}text"))
    says = {"positional": "kernel", "gate": "mixture", "trained": "DeiT, 600 steps", "curves": "1,200 steps, 5 %"}
    assert says[kind] in texts and ("of the attention" in texts or kind == "curves")


def test_pixels_are_written_as_they_are(boot):
    colour = random.integers(0, 256, size=(5, 7, 3))
    for pixels in (boot.numpy(), colour):
        read = Image.open(BytesIO(base64.b64decode(stills.png(pixels).split(",")[1])))
        read.load()
        assert np.array_equal(np.asarray(read), pixels)


def test_heat_maps_have_the_colours_of_the_figures():
    matplotlib = pytest.importorskip("matplotlib")
    from convit_edu.book import plots

    shares = np.linspace(0, 1, 256)
    wanted = matplotlib.colormaps[plots.HEAT](shares)[:, :3] * 255
    assert np.abs(stills._colours(shares[None])[0] - wanted).max() < 4
    assert stills.LINES == {name: plots.COLOURS[name] for name in stills.LINES}


# --- bad input


def bad(changes):
    given = dict(picture=np.zeros((28, 28)), content=np.full((1, 2, 4, 4), 0.25), position=np.zeros((1, 2, 3)),
                 gates=np.zeros((1, 2)))  # fmt: skip
    return module.gate_explorer(**given | changes)


LINE, NAMES = [[50.0, 1.0]] * 2, ("ConViT", "DeiT", "gap")
UNIFORM, BLACK = [np.full((2, 4, 4), 0.25)], np.zeros((4, 4))
REFUSED = {
    "strength": (lambda: module.positional_explorer(strength=5), "a strength from 0 to 4 .* not with 5"),
    "step": (lambda: module.positional_explorer(centre=(0.3, 0)), r"in halves, .* not with 1.0, \(0.3, 0\)"),
    "centre": (lambda: module.positional_explorer(centre=(4, 0)), r"not with 1.0, \(4, 0\)"),
    "side": (lambda: module.positional_explorer(grid=2), "3 to 14 patches a side"),
    "content": (lambda: bad({"content": np.zeros((2, 4, 4))}), r"needs content \(L, H, N, N\)"),
    "position": (lambda: bad({"position": np.zeros((1, 2, 2))}), r"not \(1, 2, 4, 4\), \(1, 2, 2\) and \(1, 2\)"),
    "values": (lambda: bad({"content": np.full((1, 2, 4, 4), 2.0)}), "numbers from 0 to 1"),
    "picture": (lambda: bad({"picture": np.zeros((2, 2)) - 1}), "values from 0 to 255"),
    "grid": (lambda: bad({"grid": (2, 3)}), r"4 patches do not fill a grid of 2 x 3; pass grid="),
    "steps": (lambda: module.trained_explorer(BLACK, {"A": {0: UNIFORM}, "B": {1: UNIFORM}}), "same train"),
    "no model": (lambda: module.trained_explorer(BLACK, {}), "same training steps"),
    "layers": (lambda: module.trained_explorer(BLACK, {"A": {0: UNIFORM, 1: UNIFORM * 2}}), "same number"),
    "tokens": (lambda: module.trained_explorer(BLACK, {"A": {0: [np.ones((2, 6, 6)) / 6]}}, (2, 2)),
               r"attention of A must be \(H, N, N\) .* N being 4 or 5, not \(2, 6, 6\)"),
    "no cell": (lambda: module.curves_explorer({}), "needs a cell"),
    "line": (lambda: module.curves_explorer({(2, 1.0): ([1, 2], {"ConViT": LINE, "DeiT": LINE})}), "needs the lines"),
    "length": (lambda: module.curves_explorer({(2, 1.0): ([1, 2], dict.fromkeys(NAMES, LINE[:1]))}),
               r"for every evaluation, \(2, 2\)"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_gets_one_sentence(what):
    call, sentence = REFUSED[what]
    with pytest.raises(ValueError, match=sentence) as found:
        call()
    assert "\n" not in str(found.value)


def test_an_explorer_is_a_value():
    assert module.positional_explorer() == module.positional_explorer() != module.positional_explorer(grid=5)
    titled = dataclasses.replace(module.positional_explorer(), title="<i>&", words='"')._repr_html_()
    assert "<b>&lt;i&gt;&amp;</b>" in titled and 'aria-label="&lt;i&gt;&amp;"' in titled and 'alt="&quot;"' in titled
