"""Explorers without a browser: what stands in them, what it weighs, and that their numbers are the package's."""

import base64
import dataclasses
import re
import subprocess
import sys
from io import BytesIO
from xml.etree import ElementTree

import lint_notebooks
import numpy as np
import pytest
import torch
from PIL import Image

from convit_edu import GPSA, data, locality
from convit_edu.book import explorers as module
from convit_edu.book import networks, stills
from convit_edu.lab import experiments, records
from convit_edu.lab import run as worker
from convit_edu.lab.results import settings
from convit_edu.lab.scales import SCALES
from convit_edu.positions import positional_scores
from convit_edu.train import train

SVG = "http://www.w3.org/2000/svg"
random = np.random.default_rng(0)


@pytest.fixture(scope="module")
def fashion():
    return data.load("fashion_mnist_5k")


@pytest.fixture(scope="module")
def explorers():
    return {
        "positional": module.positional_explorer(),
        "whole": module.network_explorer("whole", picture=3, layer=2, head=5),
        "layer": module.network_explorer("layer", layer=2, head=5, query=(2, 3)),
        "small": module.network_explorer("small", picture=5, layer=2, head=5, scope=2),
    }


KINDS = ("positional", "whole", "layer", "small")


# --- an output stands alone


def still(explorer):
    (address,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', explorer._repr_html_())
    return base64.b64decode(address).decode()


@pytest.mark.parametrize("kind", KINDS)
def test_an_explorer_asks_for_nothing_and_has_a_still_picture(explorers, kind):
    page, picture = explorers[kind]._repr_html_(), still(explorers[kind])
    assert re.findall(r"https?:", page) == [] and re.findall(r"https?:[^\"]*", picture) == [SVG]
    assert set(re.findall(r"(?:src|href)=\"(\w+:)", page + picture)) == {"data:"}
    assert not re.search(r"<link|@import|@font-face|fetch\(|XMLHttpRequest|import\(|WebSocket", page)
    assert set(re.findall(r"url\((\w+)", page)) <= {"data"} and set(re.findall(r"url\((#?\w+)", picture)) <= {"#v"}
    drawn = ElementTree.fromstring(picture)
    assert len(drawn.findall(f".//{{{SVG}}}image")) == {"positional": 2, "whole": 5}.get(kind, 4)
    texts = " ".join(text.text for text in drawn.iter(f"{{{SVG}}}text"))
    assert {"positional": "kernel", "whole": "DeiT"}.get(kind, "mixture") in texts and "of the attention" in texts


WEIGHTS = {"positional": 50_000, "whole": 600_000, "layer": 400_000, "small": 380_000}  # bytes of a page's output


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_may_hold_it(explorers, kind):
    """It is described, has no control until its script puts them there, and nothing in a script element ends it."""
    explorer, page = explorers[kind], explorers[kind]._repr_html_()
    assert explorer._repr_mimebundle_() == {"text/plain": repr(explorer), "text/html": page}
    assert len(page.encode()) <= WEIGHTS[kind] and not lint_notebooks.PROGRESS.search(page)
    assert f'role="group" aria-label="{explorer.title}"' in page and f'alt="{explorer.words}"' in page
    assert len(explorer.words) > 80 and explorer.words in repr(explorer)
    assert not re.search("</script|<!--", explorer.parts, re.I)
    assert not re.search("<(input|select|button)", re.sub("(?s)<script.*?</script>", "", page))
    assert len(re.findall('role="status" aria-live="polite"', explorer.parts)) == 1
    labels = re.findall("(?s)<label.*?</label>", explorer.parts)  # each control has one, and each says something
    assert len(re.findall("<input|<select", "".join(labels))) == len(re.findall("<input|<select", explorer.parts))
    said = [re.findall('aria-label="([^"]+)"', one) or re.sub("<select.*|<[^>]+>", "", one).strip() for one in labels]
    assert all(said)
    grids = re.findall(r'role="grid" aria-label="([^"]+)"', explorer.parts)
    assert len(set(grids)) == len(grids) == {"positional": 3, "whole": 7, "layer": 5, "small": 2}[kind]


@pytest.mark.slow
def test_importing_it_needs_neither_timm_nor_matplotlib():
    code = "import sys, convit_edu.book.explorers; print({'timm', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


# --- networks as text


def as_bytes(text):
    """The way back from `networks.as_text`."""
    back = {new: chr(old) for old, new in networks.LETTERS.items()}
    return base64.b85decode(text.translate(back))


def test_text_may_stand_in_a_page():
    content = random.integers(0, 256, 4000, dtype=np.uint8).tobytes()
    text = networks.as_text(content)
    assert as_bytes(text) == content and not set("<&%\\\"'/") & set(text)


@pytest.mark.parametrize("arm", ["convit", "deit"])
def test_a_packed_network_is_the_rounded_one_to_half_a_step(arm):
    model = records.checkpoint(arm)
    packed, near = networks.packed(model), networks.rounded(model)
    content, at = as_bytes(packed["text"]), 0
    for name, shape, kind in packed["tensors"]:
        value, kept, size = model.state_dict()[name], near.state_dict()[name].numpy(), int(np.prod(shape))
        if kind == "half":
            found = np.frombuffer(content, "<f2", size, at)
            assert size < networks.SMALL and np.abs(kept - value.numpy()).max() <= np.abs(value.numpy()).max() / 2000
            at += 2 * size
        else:
            rows = shape[1] if shape[0] == 1 else shape[0]
            scales = np.frombuffer(content, "<f2", rows, at).astype(np.float32)[:, None]
            found = scales * np.frombuffer(content, np.int8, size, at + 2 * rows).reshape(rows, -1)
            assert np.all(np.abs(found.reshape(shape) - value.numpy()).reshape(rows, -1) <= scales * 0.57)
            at += 2 * rows + size
        assert np.array_equal(found.reshape(shape).astype(np.float32), kept)
    assert 0 <= len(content) - at < 4


def test_rounding_changes_few_answers(fashion):
    images = fashion.normalize(fashion.test_images[:300])
    for arm in ("convit", "deit"):
        model = records.checkpoint(arm)
        with torch.no_grad():
            exact, near = model(images), networks.rounded(model)(images)
        assert (exact.argmax(1) != near.argmax(1)).sum() <= 2
        assert 0 < (exact.softmax(1) - near.softmax(1)).abs().max() < 0.02


def test_a_network_that_a_page_cannot_compute_is_refused():
    from convit_edu.beyond.single_softmax import PSAConViT
    from convit_edu.model import CONFIGS, ConViT

    other = ((ConViT, {"in_chans": 3}), (ConViT, {"qkv_bias": True}), (PSAConViT, {}), (ConViT, {"pool": "mean"}))
    for kind, changes in other:
        with pytest.raises(ValueError, match="A page computes networks for grey images"):
            networks.packed(kind(**CONFIGS["convit_mini_28"] | changes))
    for wrong in (float("nan"), 1e6):
        model = records.checkpoint("deit")
        model.norm.bias.data[3] = wrong
        with pytest.raises(ValueError, match=r"norm\.bias holds numbers that are not finite"):
            networks.packed(model)


def test_the_pictures_are_of_every_class(fashion):
    found = networks.pictures(fashion)
    assert len(found["labels"]) == 100 and found["shown"] == 20
    assert sorted(found["labels"][:20]) == sorted([*range(10)] * 2)
    assert np.bincount(found["labels"]).tolist() == [10] * 10 and len(set(found["numbers"])) == 100
    pixels = np.frombuffer(as_bytes(found["text"]), np.uint8)[: 100 * 784].reshape(100, 28, 28)
    assert np.array_equal(pixels, fashion.test_images[found["numbers"], 0].numpy())
    assert found["labels"] == fashion.test_labels[found["numbers"]].tolist()
    with pytest.raises(ValueError, match="fewer than 101 test images"):
        networks.pictures(fashion, each=101)


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


def test_the_words_of_a_network_explorer_are_the_packages(explorers, fashion):
    model = networks.rounded(records.checkpoint("convit"))
    number = networks.pictures(fashion)["numbers"][3]
    image = fashion.normalize(fashion.test_images[number][None])
    with torch.no_grad():
        weights = locality.attention_on(model, image)[2][0, 5, 24]
        answer = fashion.classes[model(image).argmax()]
    row, column = divmod(weights.argmax().item(), 7)
    words = explorers["whole"].words
    assert f"mixture gives most to row {row + 1}, column {column + 1} ({weights.max():.2f})" in words
    assert f"The trained ConViT says {answer}, DeiT says" in words


def test_the_moments_travel_only_where_somebody_watches(monkeypatch):
    assert "moments" not in module.network_explorer("whole").shared
    monkeypatch.delenv("CONVIT_EDU_PROGRESS")
    monkeypatch.setattr(networks, "moments", lambda: {"convit": {}, "deit": {}})
    assert "moments" in module.network_explorer("whole").shared
    assert "moments" not in module.network_explorer("layer").shared


# --- moments of training


def test_the_shipped_moments_are_of_the_same_networks():
    for arm in ("convit", "deit"):
        assert records.moments(arm) == [0, 150, 300, 600, 900] and records.steps(arm) == 1200
        start, end = records.checkpoint(arm, step=0), records.checkpoint(arm)
        assert start.config == end.config
        assert not any(torch.equal(a, b) for a, b in zip(start.parameters(), end.parameters()) if a.ndim > 1)
    gates = [locality.gates(records.checkpoint("convit", step=step)) for step in (0, 900)]
    assert torch.allclose(gates[0], torch.tensor(0.7311), atol=1e-3)
    assert not torch.allclose(gates[1], gates[0], atol=1e-3)


def rehearsal():
    chosen = settings(SCALES["laptop"], records.read_all(records.shipped()))
    return experiments.grid("checkpoints", SCALES["laptop-rehearsal"], chosen)


@pytest.mark.slow
def test_a_run_that_is_saved_keeps_its_moments_and_nothing_else_changes(tmp_path, one_thread):
    config = dataclasses.replace(rehearsal()[0].config, test_images=20)
    first, unsaved = (worker.perform(dataclasses.replace(config, save=s), 0, "cpu", None, None) for s in ("convit", ""))
    assert set(unsaved) == {"result", "history", "meta"}
    assert all(first[key] == unsaved[key] for key in ("result", "history"))
    records.write_bytes(tmp_path / "laptop" / "convit.moments.safetensors", first["moments"])
    assert records.moments("convit", folder=tmp_path) == [0]  # a rehearsal is not measured on its way
    found, built = records.checkpoint("convit", folder=tmp_path, step=0), config.build(0)
    assert all(torch.equal(a, b.half().float()) for a, b in zip(found.parameters(), built.parameters(), strict=True))


@pytest.mark.slow
def test_an_interrupted_run_keeps_the_weights_of_its_start(tmp_path):
    config, fashion = rehearsal()[0].config, data.load("fashion_mnist_5k")
    fashion = dataclasses.replace(fashion, test_images=fashion.test_images[:50], test_labels=fashion.test_labels[:50])
    recipe = dataclasses.replace(config.recipe, evaluations=2)
    probe = worker.Probe(fashion, recipe.steps)

    def stopped(model, step):
        if step == recipe.steps:
            raise KeyboardInterrupt
        return probe(model, step)

    def run(measure, **options):
        return train(config.build(0), fashion, recipe, "cpu", measure=measure, **options)

    stopped.identity = probe.identity
    with pytest.raises(KeyboardInterrupt):
        run(stopped, checkpoint=tmp_path / "run.pt")
    histories = run(probe, checkpoint=tmp_path / "run.pt"), run(probe)
    resumed, whole = (history.measured["weights"] for history in histories)
    assert list(resumed) == list(whole) == [0, recipe.steps // 2]
    assert all(torch.equal(resumed[step][name], value) for step in whole for name, value in whole[step].items())


def test_a_missing_or_damaged_moment_is_named(tmp_path):
    with pytest.raises(records.RecordError, match=r"no checkpoint .*moments\.safetensors; make it with"):
        records.checkpoint("convit", folder=tmp_path, step=0)
    for bad in (b"", b"x" * 100):
        records.write_bytes(tmp_path / "laptop" / "convit.moments.safetensors", bad)
        with pytest.raises(records.RecordError, match=r"convit\.moments\.safetensors is no readable checkpoint"):
            records.moments("convit", folder=tmp_path)
    with pytest.raises(records.RecordError, match="no weights after 7 steps"):
        records.checkpoint("convit", step=7)


# --- still pictures


def test_pixels_are_written_as_they_are(fashion):
    colour = random.integers(0, 256, size=(5, 7, 3))
    for pixels in (fashion.test_images[0, 0].numpy(), colour):
        read = Image.open(BytesIO(base64.b64decode(stills.png(pixels).split(",")[1])))
        read.load()
        assert np.array_equal(np.asarray(read), pixels)


def test_heat_maps_have_the_colours_of_the_figures():
    matplotlib = pytest.importorskip("matplotlib")
    from convit_edu.book import plots

    shares = np.linspace(0, 1, 256)
    wanted = matplotlib.colormaps[plots.HEAT](shares)[:, :3] * 255
    assert np.abs(stills._colours(shares[None])[0] - wanted).max() < 4


# --- bad input


@pytest.mark.parametrize(("call", "sentence"), [
    (lambda: module.positional_explorer(strength=5), "a strength from 0 to 4 .* not with 5"),
    (lambda: module.positional_explorer(centre=(0.3, 0)), r"in halves, .* not with 1.0, \(0.3, 0\)"),
    (lambda: module.positional_explorer(centre=(4, 0)), r"not with 1.0, \(4, 0\)"),
    (lambda: module.positional_explorer(grid=2), "3 to 14 patches a side"),
    (lambda: module.network_explorer("large"), "one of whole, layer, small"),
    (lambda: module.network_explorer(picture=100), "a picture below 100, .* not whole, 100"),
    (lambda: module.network_explorer("layer", layer=3), "one of 3 layers"),
    (lambda: module.network_explorer(head=9), "9 heads"),
    (lambda: module.network_explorer(query=(7, 0)), r"7 x 7 patches, .*\(7, 0\)"),
    (lambda: stills.png(np.zeros((2, 2)) - 1), "values from 0 to 255"),
    (lambda: stills.png(np.zeros((40_000, 1))), "values from 0 to 255"),
])  # fmt: skip
def test_bad_input_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_an_explorer_is_a_value():
    assert module.positional_explorer() == module.positional_explorer() != module.positional_explorer(grid=5)
    titled = dataclasses.replace(module.positional_explorer(), title="<i>&", words='"')._repr_html_()
    assert "<b>&lt;i&gt;&amp;</b>" in titled and 'aria-label="&lt;i&gt;&amp;"' in titled and 'alt="&quot;"' in titled
