"""The trained networks in Chromium: every logit and every attention map is the package's."""

import base64
import json
import re

import numpy as np
import pytest
import torch

from convit_edu import data, locality
from convit_edu.book import explorers, networks
from convit_edu.lab import records

pytestmark = pytest.mark.slow

ARMS, IMAGES = ("convit", "deit"), 20
random = np.random.default_rng(0)
GATES = random.uniform(size=(3, 9))
ORDER = random.permutation(49)
SETTINGS = {
    "as trained": {},
    "gates moved": {"gates": GATES.tolist()},
    "positions masked": {"positions": False},
    "patches shuffled": {"order": ORDER.tolist()},
    "all at once": {"gates": GATES.round().tolist(), "positions": False, "order": ORDER.tolist()},
}

# Runs some pictures through a network and gives all logits and maps as the bytes of float32.
FORWARD = """([name, how, count]) => {
  const engine = window.convitEngine, pictures = convitData.pictures, pixels = engine.bytes(pictures.text);
  const network = engine.unpack(convitData[name]), found = [];
  for (let k = 0; k < count; k++) {
    const one = pixels.subarray(784 * k, 784 * (k + 1));
    const run = engine.forward(network, one, pictures, { ...how, maps: true });
    found.push(run.logits, engine.forward(network, one, pictures, how).logits);
    for (const { content, position, mixed } of run.layers) {
      found.push(...(position ? [content, position, mixed] : [mixed]));
    }
  }
  const whole = new Float32Array(found.reduce((sum, part) => sum + part.length, 0));
  found.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
  const bytes = new Uint8Array(whole.buffer), parts = [];
  for (let k = 0; k < bytes.length; k += 32768) parts.push(String.fromCharCode(...bytes.subarray(k, k + 32768)));
  return btoa(parts.join(""));
}"""


@pytest.fixture(scope="module")
def fashion():
    return data.load("fashion_mnist_5k")


@pytest.fixture(scope="module")
def models():
    return {arm: networks.rounded(records.checkpoint(arm)) for arm in ARMS}


@pytest.fixture(scope="module")
def pictures(fashion):
    return networks.pictures(fashion)


@pytest.fixture(scope="module")
def address(models, pictures, tmp_path_factory):
    given = {arm: networks.packed(model) for arm, model in models.items()} | {"pictures": pictures}
    scripts = [explorers._source("convit.js"), *(networks.script(name, value) for name, value in given.items())]
    path = tmp_path_factory.mktemp("engine") / "page.html"
    body = "".join(f"<script>{script}</script>" for script in scripts)
    path.write_text(f'<!doctype html><meta charset="utf-8">{body}', encoding="utf-8")
    return path.as_uri()


@torch.no_grad()
def wanted(model, images, how):
    """Logits, and for each layer content, position and mixture, (M, ...) each, from the package."""
    if "order" in how:  # place k shows patch order[k]
        patches = images.reshape(-1, 7, 4, 7, 4).permute(0, 1, 3, 2, 4).reshape(-1, 49, 4, 4)[:, how["order"]]
        images = patches.reshape(-1, 7, 7, 4, 4).permute(0, 1, 3, 2, 4).reshape(-1, 1, 28, 28)
    model = networks.rounded(model)  # a copy
    if "gates" in how:
        for layer, gates in zip(locality.gpsa_layers(model), how["gates"]):
            layer.gating_param.copy_(torch.logit(torch.tensor(gates)))
    if not how.get("positions", True):
        model.pos_embed.zero_()
    model(images, trace := {})
    found, gated = [model(images)] * 2, len(locality.gpsa_layers(model))
    for layer in range(len(model.blocks)):
        for gate in (0, 1) if layer < gated else ():
            with locality.gates_at(model, {layer: gate}):
                found.append(model.attention_weights(trace, layer))
        found.append(model.attention_weights(trace, layer))
    return found


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_logits_and_every_map_are_the_packages(new_page, address, models, pictures, fashion, arm, setting):
    page, how = new_page(), SETTINGS[setting]
    page.goto(address)
    found = np.frombuffer(base64.b64decode(page.evaluate(FORWARD, [arm, how, IMAGES])), np.float32)
    images = fashion.normalize(fashion.test_images[pictures["numbers"][:IMAGES]])
    per_image = [part.flatten(1).numpy() for part in wanted(models[arm], images, how)]
    expected = np.concatenate(per_image, axis=1)
    assert expected.shape[1] > 80_000 and len(set(pictures["labels"][:IMAGES])) == 10
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=0, atol=1e-4)
    assert page.errors == []


SCORE = """([refuse, how]) => new Promise((done) => {
  const engine = window.convitEngine, given = convitData.pictures;
  const pictures = { ...given, pixels: engine.bytes(given.text) };
  const nets = ["convit", "deit"].map((name) => engine.unpack(convitData[name])), told = [];
  const score = engine.scorer(pictures, 2);
  let ticks = 0;
  const timer = setInterval(() => ticks++, 5);
  score(nets, [{ gates: [[1]] }, how], () => told.push("stale")); // the next ends one, and the other goes on
  told.length = 0;
  score(nets, [how, how], (right, of) => {
    told.push([...right, of]);
    if (of === 100) done({ last: told.at(-1), number: told.length, stale: told.includes("stale"), ticks });
  });
})"""
REFUSALS = {
    "Worker": "",
    "no Worker": "delete window.Worker;",
    "refused at once": "window.Worker = class { constructor() { throw Error('refused'); } };",
    "refused later": "window.Worker = class { postMessage() { setTimeout(() => this.onerror()); } };",
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_accuracy_is_the_packages_with_and_without_workers(new_page, address, models, pictures, fashion, refusal):
    page = new_page()
    page.add_init_script(REFUSALS[refusal])
    page.goto(address)
    how = {"gates": [[0.0] * 9] * 3}
    found = page.evaluate(SCORE, [refusal, how])
    images = fashion.normalize(fashion.test_images[pictures["numbers"]])
    labels = torch.tensor(pictures["labels"])
    right = [int((wanted(models[arm], images, how)[0].argmax(1) == labels).sum()) for arm in ARMS]
    assert found["last"] == [*right, 100] and right[0] != right[1]
    assert found["number"] >= 20 and not found["stale"] and found["ticks"] >= 10  # in pieces: the page stays alive
    assert page.errors == []


def test_erf_and_float16(new_page, address):
    page = new_page()
    page.goto(address)
    x = np.linspace(-5, 5, 2001)
    found = page.evaluate("x => x.map(convitEngine.erf)", x.tolist())
    np.testing.assert_allclose(found, torch.erf(torch.tensor(x)).numpy(), rtol=0, atol=2e-7)
    bits = np.arange(0, 65536, 7, dtype=np.uint16)
    numbers = np.nan_to_num(bits.view(np.float16).astype(float), nan=12345.0, posinf=1e9, neginf=-1e9)
    finite = "x => x !== x ? 12345 : Math.max(-1e9, Math.min(1e9, x))"
    told = page.evaluate(f"all => all.map(convitEngine.half).map({finite})", bits.tolist())
    assert told == numbers.tolist()


DAMAGE = {
    "cut short": (lambda packed: packed | {"text": packed["text"][:-500]}, "the weights end before"),
    "no number": (lambda packed: packed | {"text": networks.as_text(b"\xff\xff" * (len(packed["text"]) // 5 * 2))},
                  "holds what is no number"),
    "another grid": (lambda packed: packed | {"config": packed["config"] | {"grid": [6, 7]}}, "do not fit the network"),
    "other heads": (lambda packed: packed | {"config": packed["config"] | {"num_heads": 7}}, "do not fit the network"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_network_is_named(new_page, address, models, what):
    page = new_page()
    page.goto(address)
    change, sentence = DAMAGE[what]
    told = page.evaluate("packed => { try { convitEngine.unpack(packed); } catch (error) { return error.message; } }",
                         json.loads(json.dumps(change(networks.packed(models["convit"])))))  # fmt: skip
    assert re.search(sentence, told or "no error")
