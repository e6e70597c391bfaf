"""A recast network computes what the CNN computed, and the later starts are what their equations say."""

from dataclasses import replace
from inspect import signature

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convit_edu import create_model
from convit_edu.beyond import initial_weights as starts
from convit_edu.beyond.cnn import create_cnn
from convit_edu.beyond.cost import multiply_adds
from convit_edu.beyond.recast import PatchCNN, WideConViT, WideGPSA, factors, recast, taps_of
from convit_edu.lab import experiments
from convit_edu.lab import run as worker
from convit_edu.lab.scales import LAPTOP, SCALES
from convit_edu.locality import attention_distance, gates, gpsa_layers, uniform_nonlocality
from convit_edu.parity import relative_difference, timm
from convit_edu.positions import kernel_centres


@torch.no_grad()
def error(a, b, images):
    """The largest difference of the logits of b from those of a, over the largest of a's."""
    return relative_difference(b(images), a(images))


SMALL = dict(img_size=20, patch_size=4, embed_dim=18, depth=2, num_classes=5)


def network(padding="replicate", seed=0, **changes):
    """A CNN in float64 with filters that are far from zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cnn = PatchCNN(**SMALL | {"padding": padding} | changes).double().eval()
        for block in cnn.blocks:
            torch.nn.init.normal_(block.attn.conv.weight, std=0.2)
            torch.nn.init.normal_(block.attn.conv.bias)
    return cnn


def pictures(number=3, side=20):
    return torch.randn(number, 1, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def test_the_logits_are_the_same_everywhere_with_replicate_padding():
    cnn = network()
    model = recast(cnn, strength=50.0, seed=0)
    assert cnn(pictures()).abs().max() > 0.01
    assert error(cnn, model, pictures()) < 1e-13
    assert torch.equal(gates(model), torch.ones(2, 9))  # exactly: nothing of the content takes part


@pytest.mark.parametrize("padding", ["replicate", "zeros"])
def test_a_layer_is_the_convolution_in_the_interior_and_at_the_border_if_it_replicates(padding):
    cnn = network(padding)
    model, x = recast(cnn, seed=0), torch.randn(2, 35, 18, dtype=torch.float64)
    grid = (5, 7)  # any grid
    conv, layer = cnn.blocks[1].attn, model.blocks[1].attn
    image = x.transpose(1, 2).unflatten(2, grid)
    mode = "constant" if padding == "zeros" else padding
    by_torch = F.conv2d(F.pad(image, (1, 1, 1, 1), mode=mode), conv.conv.weight, conv.conv.bias)
    assert torch.allclose(conv(x, grid), by_torch.flatten(2).transpose(1, 2))
    apart = (layer(x, grid) - conv(x, grid)).abs().amax((0, 2)).reshape(grid)
    assert apart[1:-1, 1:-1].max() < 1e-13
    border = torch.cat((apart[0], apart[-1], apart[:, 0], apart[:, -1]))
    assert border.max() < 1e-13 if padding == "replicate" else border.min() > 1e-3


def test_the_width_of_a_head_bounds_the_rank_of_a_tap():
    cnn = network()
    taps = taps_of(cnn.blocks[0].attn.conv).detach()
    before = float("inf")
    for width in (1, 2, 9, 17):
        w_out, w_val = factors(taps, width)
        assert w_out.shape == (9, 18, width) and w_val.shape == (9, width, 18)
        assert (torch.linalg.matrix_rank(w_out @ w_val) == width).all()
        left = (w_out @ w_val - taps).norm()
        lost = torch.linalg.svdvals(taps)[:, width:].norm()  # Eckart and Young: no product of this rank is nearer
        assert left.item() == pytest.approx(lost.item()) and left < before
        before = left
    assert torch.equal(factors(taps, 18)[1], torch.eye(18).double().expand(9, 18, 18))
    for width in (0, 19):
        with pytest.raises(ValueError, match=f"between 1 and 18, got {width}"):
            factors(taps, width)


def test_a_cnn_whose_taps_have_low_rank_is_recast_exactly_by_narrow_heads():
    cnn = network()
    for block in cnn.blocks:
        w_out, w_val = factors(taps_of(block.attn.conv).detach(), 2)
        x, y = kernel_centres(9).long().unbind(1)
        block.attn.conv.weight.data[:, :, y + 1, x + 1] = (w_out @ w_val).permute(1, 2, 0)
    model = recast(cnn, value_dim=2, seed=0)  # D / 9: the width in the paper's layer
    assert error(cnn, model, pictures()) < 1e-12 and model.blocks[0].attn.v.weight.shape == (18, 18)


def test_the_cnn_stays_as_it_is_and_the_random_state_too():
    cnn = network()
    before, state = {name: value.clone() for name, value in cnn.state_dict().items()}, torch.get_rng_state()
    one, same, other = (recast(cnn, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    one_qk, same_qk, other_qk = (model.blocks[0].attn.qk.weight for model in (one, same, other))
    assert torch.equal(one_qk, same_qk) and not torch.equal(one_qk, other_qk)
    one.head.weight.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in cnn.state_dict().items())
    assert not one.training and recast(network().train(), seed=0).training


def test_at_gate_one_no_gradient_reaches_the_gates_and_lowered_it_does():
    for gate, reached in ((1.0, False), (0.73, True)):
        model = recast(network(), gate=gate, strength=2.0, seed=0)
        model(pictures()).square().sum().backward()
        layer = gpsa_layers(model)[0]
        assert layer.gate().tolist() == pytest.approx([gate] * 9)
        assert bool(layer.gating_param.grad.abs().max() > 0) == reached
        assert bool(layer.qk.weight.grad.abs().max() > 0) == reached
        assert layer.pos_proj.weight.grad.abs().max() > 0 and layer.v.weight.grad.abs().max() > 0
    for gate in (0.0, 1.1, -1):
        with pytest.raises(ValueError, match="above 0 and up to 1"):
            recast(network(), gate=gate)


def test_a_wide_layer_attends_as_its_weights_say_and_starts_as_gpsa_does():
    torch.manual_seed(0)
    layer, x = WideGPSA(18, 9, 5).double(), torch.randn(2, 25, 18, dtype=torch.float64)
    values = layer.v(x).unflatten(2, (9, 5)).transpose(1, 2)  # (B, H, N, d)
    by_hand = layer.proj((layer.weights(x) @ values).transpose(1, 2).flatten(2))
    assert torch.allclose(layer(x), by_hand)
    assert torch.equal(layer.v.weight, torch.eye(5, 18).double().repeat(9, 1))
    model = WideConViT(**SMALL | {"in_chans": 1})
    assert model.config["value_dim"] == 18 and torch.equal(gates(model), torch.ones(2, 9).sigmoid())
    assert all(torch.equal(each.v.weight, torch.eye(18).repeat(9, 1)) for each in gpsa_layers(model))
    assert all(each.proj.weight.std() < 0.03 for each in gpsa_layers(model))
    again = WideConViT(**model.config)
    again.load_state_dict(model.state_dict())
    assert again.resized(28)(torch.zeros(1, 1, 28, 28)).shape == (1, 5)
    for width in (0, 19):
        with pytest.raises(ValueError, match=f"between 1 and the width 18 of a token, got {width}"):
            WideGPSA(18, 9, width)
    with pytest.raises(ValueError, match="GPSA layers alone"):
        WideConViT(**SMALL | {"in_chans": 1, "local_up_to_layer": 1})
    with pytest.raises(ValueError, match="Unknown padding 'reflect'; known: replicate, zeros"):
        PatchCNN(padding="reflect")


def test_multiply_adds_are_those_of_the_matrix_products():
    cnn = network()
    embed, mlp, head = 25 * 16 * 18, 25 * 2 * 18 * 72, 18 * 5
    assert multiply_adds(cnn) == embed + 2 * (25 * 9 * 18 * 18 + mlp) + head
    # A layer: scores, content on values, position on values by two factors, and what makes these of grid and strength.
    attention, linear = 25 * 25 * (18 + 162) + 25 * 10 * 162, 25 * 18 * (36 + 162 + 162)
    assert multiply_adds(recast(cnn)) == pytest.approx(embed + 2 * (linear + attention + mlp) + head, rel=0.01)
    deit, theirs = create_model("deit_tiny", depth=2), timm.create_model("deit_tiny_patch16_224", depth=2)
    assert multiply_adds(deit) == multiply_adds(theirs, (3, 224, 224))
    free = create_cnn(seed=0, width=4)
    assert multiply_adds(free, (1, 20, 20)) > 3 * multiply_adds(free, (1, 10, 10))


# --- the later starts


def deit(heads=9, seed=0, **changes):
    shape = dict(embed_dim=36, depth=2, local_up_to_layer=0, num_heads=heads, init_gain=None)
    return create_model("convit_mini_28", seed, **shape | changes)


def products(layer):
    """W_qry W_key^T of every head (H, D, D), and W_val W_out of the layer (D, D), for row vectors as in the papers."""
    q, k, v = layer.qkv.weight.detach().double().chunk(3)
    heads = [a.T @ b for a, b in zip(q.split(layer.head_dim), k.split(layer.head_dim))]
    return torch.stack(heads), v.T @ layer.proj.weight.detach().double().T


def test_sines_tell_places_apart_and_depend_on_rows_and_columns_alone():
    P = starts.sine_embedding((7, 7), 36)
    assert P.shape == (49, 36) and torch.cdist(P, P).add(10 * torch.eye(49)).min() > 0.3
    scores = (P @ P.T).reshape(7, 7, 7, 7)
    assert torch.allclose(scores[1, 1, 2, 3], scores[3, 2, 4, 4])  # a function of the offset
    assert starts.sine_embedding((2, 3), 38)[:, 36:].abs().max() == 0
    model = deit()
    kept = {name: value.clone() for name, value in model.state_dict().items() if name != "pos_embed"}
    starts.sinusoidal(model)
    assert torch.allclose(model.pos_embed[0].double(), P, atol=1e-6) and model.pos_embed.requires_grad
    assert all(torch.equal(model.state_dict()[name], value) for name, value in kept.items())


def test_mimetic_products_are_near_the_identity_and_its_negative():
    torch.manual_seed(0)
    model = deit(heads=1)  # one head: no rank is cut
    starts.mimetic(model)
    eye, draws = torch.eye(36), []
    for block in model.blocks:
        (qk,), vo = products(block.attn)
        for product, scale, sign in ((qk, 0.7, 1), (vo, 0.4, -1)):
            Z = product / scale - sign * eye
            assert Z.std() * 6 == pytest.approx(1, abs=0.1) and abs(Z.diagonal().mean()) < 0.1
            draws.append(Z)
    assert all((a - b).abs().max() > 0.1 for i, a in enumerate(draws) for b in draws[:i])


def test_each_start_has_the_halves_that_its_name_says():
    scores, values = {}, {}
    for name, start in starts.STARTS.items():
        torch.manual_seed(0)
        model = deit()
        start(model)
        scores[name], values[name] = products(model.blocks[0].attn)
    for name in ("mimetic, queries and keys alone", "structured"):
        assert torch.equal(values[name], values["sinusoidal"])  # as they were
    assert torch.equal(scores["mimetic, values alone"], scores["sinusoidal"])
    assert torch.equal(scores["structured, mimetic values"], scores["structured"])  # offsets are drawn before values
    assert (torch.linalg.matrix_rank(scores["mimetic"], rtol=1e-4) == 4).all()  # cut at the width of a head
    size = scores["mimetic"].norm().item()
    assert scores["mimetic, queries and keys alone"].norm().item() == pytest.approx(size, rel=0.1)
    assert size > 5 * scores["sinusoidal"].norm()
    for name in ("mimetic", "mimetic, values alone", "structured, mimetic values"):  # near 0.4 (Z - I)
        assert values[name].trace().item() == pytest.approx(-0.4 * 36, rel=0.2)
        assert values[name].norm() > 5 * values["sinusoidal"].norm()


def test_structured_heads_look_at_their_offset_where_tokens_are_positions():
    torch.manual_seed(0)
    model = deit(heads=6)
    starts.structured(model)
    P = F.layer_norm(starts.sine_embedding((7, 7), 36), (36,))
    looked_at = set()
    for block in model.blocks:
        heads, _ = products(block.attn)
        for qk in heads:
            attention = (P @ qk @ P.T / block.attn.head_dim**0.5).softmax(1)[24].reshape(7, 7)  # the middle query
            row, column = divmod(attention.argmax().item(), 7)
            assert abs(row - 3) <= 1 and abs(column - 3) <= 1 and attention.max() > 0.2
            looked_at.add((row, column))
    assert len(looked_at) > 3
    tokens = model.patch_embed(torch.randn(20, 1, 28, 28)) + model.pos_embed
    weights = model.blocks[0].attn.weights(model.blocks[0].norm1(tokens))
    distance = attention_distance(weights, (7, 7))[0]
    assert distance.max() < 0.75 * uniform_nonlocality((7, 7))  # with real tokens as well


def test_an_impulse_looks_at_one_patch_and_at_the_nearest_beyond_the_border():
    H = starts.impulse((2, 3), 1, -1)  # a column to the right, a row up
    assert H.argmax(1).tolist() == [1, 2, 2, 1, 2, 2] and torch.equal(H.sum(1), torch.ones(6).double())


@pytest.mark.parametrize("start", starts.STARTS.values(), ids=starts.STARTS)
def test_a_start_is_for_a_deit_and_comes_from_torchs_random_state(start):
    with pytest.raises(ValueError, match="for a DeiT; build the model with local_up_to_layer=0"):
        start(create_model("convit_mini_28", 0, embed_dim=36, depth=2, local_up_to_layer=1))
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = deit()
        start(model)
        found.append(torch.cat([value.flatten() for value in model.state_dict().values()]))
    assert torch.equal(found[0], found[1]) and found[0].isfinite().all()
    assert torch.equal(found[0], found[2]) == (start is starts.sinusoidal)


# --- the experiments

SETTINGS = experiments.Settings(
    {"ConViT": 1e-3, "DeiT, equal heads": 2e-3, "DeiT, few heads": 4e-3, "CNN": 8e-3}, "DeiT, equal heads"
)


def configs(name, scale="laptop"):
    return [(cell.label, cell.config) for cell in experiments.grid(name, SCALES[scale], SETTINGS)]


def test_the_arms_start_from_one_cnn_and_have_as_many_steps():
    found = {label["arm"]: config for label, config in configs("recast")}
    cnn, scratch = found.pop("CNN, trained on"), found.pop("ConViT")
    first, then = LAPTOP.recast_steps
    assert list(found) == [f"recast, gates from {gate:g}" for gate in experiments.RECAST_GATES]
    for gate, config in zip(experiments.RECAST_GATES, found.values(), strict=True):
        assert config.start == cnn.start and config.recast == {"strength": 8.0, "gate": gate}
        assert config.recipe.steps + config.start.recipe.steps == scratch.recipe.steps
        assert config.model == scratch.model | {"locality_strength": 8.0, "init_gain": config.start.model["init_gain"]}
    assert cnn.model == cnn.start.model and cnn.recipe.steps == then
    assert cnn.start.recipe.steps == first and scratch.start is None


@pytest.mark.slow
def test_a_run_records_what_the_recast_and_the_gates_cost():
    found = {label["arm"]: config for label, config in configs("recast", "laptop-rehearsal")}
    results = {arm: worker.perform(found[arm], 0, "cpu", None, None)["result"] for arm in list(found)[:3]}
    free = results["recast, gates from 0.73"]
    assert free["start"] == results["CNN, trained on"]["start"] == pytest.approx(free["recast"], abs=1)
    assert 0 <= free["gates lowered"] <= 100 and "start" not in results["ConViT"]
    assert free["parameters"] == results["ConViT"]["parameters"] > results["CNN, trained on"]["parameters"]
    again = worker.perform(found["recast, gates from 0.73"], 0, "cpu", None, None)
    assert again["result"] == free  # nothing has changed the CNN that the arms start from


def test_a_recast_model_is_the_one_of_its_configuration():
    config = configs("recast")[2][1]
    cnn = config.start.build(0)
    assert recast(cnn, **config.recast, seed=0).config == config.build(0).config


def test_the_starts_differ_in_the_initial_weights_and_the_searched_rate():
    found = {label["start"]: config for label, config in configs("starts")}
    rows = {label["row"]: config for label, config in configs("ablation") if label["fraction"] == 0.05}
    assert (found["ConViT"], found["DeiT"]) == (rows["a"], rows["e"])
    rates = {"sinusoidal": SETTINGS.rate("DeiT")} | experiments.STARTS_CHOSEN
    rates |= {name: experiments.STARTS_CHOSEN[name.partition(",")[0]] for name in starts.STARTS if "," in name}
    assert set(rates) == set(starts.STARTS)
    assert set(found) == set(rates) | {"ConViT", "DeiT"}
    for name, rate in rates.items():
        recipe = replace(found["DeiT"].recipe, lr=rate)
        assert found[name] == replace(found["DeiT"], recipe=recipe, initial=name)


def test_the_constants_of_the_starts_belong_to_the_records():
    """A configuration names a start and not its constants: whoever changes one must record again."""
    defaults = {name: list(signature(start).parameters.values())[1:] for name, start in starts.STARTS.items()}
    constants = {name: [parameter.default for parameter in found] for name, found in defaults.items()}
    assert constants == {
        "sinusoidal": [], "mimetic": [0.7, 0.4], "structured": [60.0, None],
        "mimetic, queries and keys alone": [0.7, None], "mimetic, values alone": [None, 0.4],
        "structured, mimetic values": [60.0, 0.4],
    }  # fmt: skip


@pytest.mark.parametrize(("gain", "deviation"), [(None, 0.02), (0.42, 0.42 / 27**0.5), (1.0, 27**-0.5)])
def test_the_matrices_of_a_cnn_start_in_proportion_to_their_inputs(gain, deviation):
    torch.manual_seed(0)
    block = PatchCNN(embed_dim=27, depth=1, init_gain=gain).blocks[0]
    over = 1 if gain is None else 3  # a convolution has nine times the inputs
    for module in block.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight[0].numel() in (27, 9 * 27):
            wanted = deviation / (over if isinstance(module, nn.Conv2d) else 1)
            assert module.weight.std().item() == pytest.approx(wanted, rel=0.06)
    assert all(torch.equal(p, torch.zeros_like(p)) for name, p in block.named_parameters() if name.endswith("bias"))
