"""Non-locality against the table of initial values, a slow loop, and known attentions."""

import pytest
import torch

from convit_edu import GPSA, ConViT, create_model
from convit_edu.locality import (
    attention_distance,
    attention_on,
    forced_gates,
    gates,
    gates_at,
    gpsa_layers,
    head_geometry,
    nonlocality,
    uniform_nonlocality,
)


@pytest.mark.parametrize(
    ("side", "uniform", "by_heads", "position_only"),
    [
        (14, 7.28, (2.68, 2.88, 3.10), (0.99, 1.26, 1.56)),
        (8, 4.14, (1.80, 1.98, 2.18), (0.94, 1.19, 1.46)),
        (7, 3.61, (1.64, 1.82, 2.01), (0.92, 1.16, 1.42)),
    ],
)
def test_initial_values(side, uniform, by_heads, position_only):
    assert uniform_nonlocality((side, side)) == pytest.approx(uniform, abs=0.005)
    for heads, expected, alone in zip((4, 9, 16), by_heads, position_only, strict=True):
        layer, x = GPSA(heads, heads).double(), torch.zeros(1, side**2, heads).double()  # x = 0: uniform content
        distance, mass = attention_distance(layer.weights(x), (side, side))
        assert distance.mean().item() == pytest.approx(expected, abs=0.005)
        assert torch.equal(mass, torch.zeros_like(mass))
        layer.gating_param.data.fill_(800.0)
        assert attention_distance(layer.weights(x), (side, side))[0].mean().item() == pytest.approx(alone, abs=0.005)


def test_the_class_token_is_dropped_and_rows_renormalised():
    weights = torch.rand(2, 3, 7, 7, dtype=torch.float64).softmax(-1)
    distance, mass = attention_distance(weights, (2, 3))
    for head in range(3):
        total, share = 0.0, 0.0
        for image in range(2):
            for query in range(6):
                row = weights[image, head, 1 + query, 1:]
                share += weights[image, head, 1 + query, 0] / 12
                for key in range(6):
                    dy, dx = key // 3 - query // 3, key % 3 - query % 3
                    total += row[key] / row.sum() * (dx**2 + dy**2) ** 0.5 / 12
        assert distance[head] == pytest.approx(total.item()) and mass[head] == pytest.approx(share.item())
    only_class = torch.zeros(1, 1, 7, 7)
    only_class[..., 0] = 1
    assert [v.item() for v in attention_distance(only_class, (2, 3))] == [0.0, 1.0]


def test_attention_of_another_shape_and_scores_are_refused():
    for shape in ((1, 1, 9, 9), (1, 6, 6), (1, 1, 7, 5)):
        with pytest.raises(ValueError, match=r"2 x 3 patches.*not \(1, "):
            attention_distance(torch.full(shape, 1 / shape[-1]), (2, 3))
    for scores in (torch.ones(6, 6), torch.eye(6) * 2 - 1 / 6, torch.full((6, 6), torch.nan)):
        with pytest.raises(ValueError, match="softmax"):
            attention_distance(scores[None, None], (2, 3))


def test_nonlocality_of_a_model_is_that_of_its_true_inputs():
    # The paper's start: content is nearly flat, whichever digits torch draws, so a class token gets about one in fifty.
    model = create_model("convit_mini_28", seed=0, init_gain=None).train()
    images = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    measured = nonlocality(model, images, batch_size=2)
    assert model.training and measured.distance.shape == measured.class_mass.shape == (6, 9)
    model.eval()
    trace = {}
    model(images, trace)
    for layer in range(6):
        block = model.blocks[layer]
        distance, mass = attention_distance(block.attn.weights(block.norm1(trace[f"blocks.{layer}"]), (7, 7)), (7, 7))
        torch.testing.assert_close(measured.distance[layer].float(), distance, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(measured.class_mass[layer].float(), mass, rtol=1e-4, atol=1e-5)
    assert (measured.class_mass[:4] == 0).all() and (measured.class_mass[4:] > 0.01).all()
    assert measured.uniform == pytest.approx(3.61, abs=0.005)
    torch.testing.assert_close(measured.relative, measured.distance / measured.uniform)
    # Untrained: GPSA layers near the table's 1.82, self-attention layers near uniform.
    assert measured.distance[0].mean() == pytest.approx(1.82, abs=0.02)
    assert measured.relative[5].mean() == pytest.approx(1, abs=0.02)
    with pytest.raises(ValueError, match="pass at least one"):
        nonlocality(model, images[:0])


def test_gates_and_geometry_read_the_parameters():
    model = ConViT(
        img_size=12, patch_size=4, embed_dim=36, depth=3, num_heads=9, local_up_to_layer=2, locality_strength=2.0
    )
    torch.testing.assert_close(gates(model), torch.full((2, 9), 0.731059), rtol=0, atol=1e-5)
    assert gates(create_model("convit_mini_28", local_up_to_layer=0)).shape == (0, 9)
    layer = gpsa_layers(model)[1]
    centres, widths = head_geometry(layer)
    assert centres[0].tolist() == [-1, -1] and centres[5].tolist() == [0, 1] and centres[7].tolist() == [1, 0]
    assert widths.tolist() == pytest.approx([0.5] * 9)
    layer.pos_proj.weight.data[3, 2] = 0.5  # attention grows with distance: no Gaussian
    centres, widths = head_geometry(layer)
    assert widths[3].isnan() and centres[3].isnan().all() and not widths[4].isnan()


def test_measures_leave_every_part_of_the_model_in_its_mode():
    model, images = create_model("convit_mini_28", seed=0).train(), torch.zeros(2, 1, 28, 28)
    model.blocks[1].eval()  # a frozen part
    modes = [module.training for module in model.modules()]
    for measure in (attention_on, nonlocality, lambda *a: nonlocality(*a, shortcut=True)):
        measure(model, images)
        assert [module.training for module in model.modules()] == modes


def test_a_gate_or_a_layer_that_is_none_is_refused():
    model = create_model("convit_mini_28", seed=0)
    for gate in (float("nan"), -0.1, 1.1):
        for context in (forced_gates(model, gate), forced_gates(model, gate, 0), gates_at(model, {0: gate})):
            with pytest.raises(ValueError, match=r"A gate lies in \[0, 1\].* got"), context:
                pass
    for layer in (1.5, -1, 5):
        for context in (forced_gates(model, 1.0, layer), gates_at(model, {layer: 1.0})):
            with pytest.raises(ValueError, match=r"[Tt]here are 4 GPSA layers"), context:
                pass
    assert gates(model).min() == gates(model).max() > 0.7


def test_head_geometry_sees_what_a_wrapper_adds_to_the_positions():
    layer = GPSA(36, 9, locality_strength=2.0)
    with torch.no_grad():
        layer.pos_proj.bias.normal_()  # plays no part

    class Moved(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base

        def forward(self, r):
            return self.base(r) + 4.0 * r[..., :1]  # w_x is 4 more: a centre one patch further right

    before, widths = head_geometry(layer)
    layer.pos_proj = Moved(layer.pos_proj)
    after, same = head_geometry(layer)
    torch.testing.assert_close(after - before, torch.tensor([[1.0, 0.0]]).double().expand(9, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(same, widths, rtol=0, atol=1e-5)
