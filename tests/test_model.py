"""The whole network: sizes, class token, pooling, trace, other image sizes, and its errors."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import convit_edu
from convit_edu import CONFIGS, GPSA, ConViT, SelfAttention, create_model
from convit_edu.model import drop_path

SMALL = {
    "img_size": (12, 20), "patch_size": 4, "in_chans": 1, "num_classes": 5,
    "embed_dim": 36, "depth": 3, "num_heads": 9, "local_up_to_layer": 2,
}  # fmt: skip


def small(**overrides):
    torch.manual_seed(0)
    return ConViT(**SMALL | overrides).eval()


PARAMETERS = {
    "convit_tiny": 5_710_512, "convit_small": 27_777_322, "convit_base": 86_540_040,
    "convit_tiny_plus": 9_972_912, "convit_small_plus": 48_979_882, "convit_base_plus": 153_134_856,
}  # fmt: skip


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_parameter_counts_are_those_of_the_paper(name, parameters):
    with torch.device("meta"):
        model = create_model(name)
        partner = create_model(name, local_up_to_layer=0)
    assert sum(p.numel() for p in model.parameters()) == parameters
    # GPSA has 5 H more parameters a layer: 3 H + H in pos_proj, H gates.
    assert sum(p.numel() for p in partner.parameters()) == parameters - 10 * 5 * model.config["num_heads"]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_named_model_runs(name):
    overrides = {} if "mini" in name else {"img_size": 32, "depth": 2, "local_up_to_layer": 1 - name.startswith("deit")}
    model = create_model(name, **overrides).eval()
    assert model(torch.zeros(2, *model.patch_embed.input_shape)).shape == (2, model.config["num_classes"])


def test_deit_is_the_same_class_without_gpsa():
    model = small(local_up_to_layer=0)
    assert all(isinstance(block.attn, SelfAttention) for block in model.blocks)
    assert [isinstance(block.attn, GPSA) for block in small().blocks] == [True, True, False]


@pytest.mark.parametrize(
    ("overrides", "lengths"),
    [({}, [15, 15, 16, 16]), ({"local_up_to_layer": 0}, [16] * 4), ({"pool": "mean"}, [15] * 4),
     ({"local_up_to_layer": 0, "class_token_at": 2}, [15, 15, 16, 16]), ({"local_up_to_layer": 3}, [15] * 4)],
)  # fmt: skip
def test_trace_holds_true_inputs_and_shows_where_the_class_token_joins(overrides, lengths):
    model, trace = small(**overrides), {}
    images = torch.randn(2, 1, 12, 20)
    logits = model(images, trace)
    assert list(trace) == ["blocks.0", "blocks.1", "blocks.2", "norm"]
    assert [x.shape[1] for x in trace.values()] == lengths
    for layer in range(3):  # running a block on its traced input gives the next one's
        out = model.blocks[layer](trace[f"blocks.{layer}"], model.grid)
        after = model.norm(out) if layer == 2 else trace[f"blocks.{layer + 1}"]
        assert torch.equal(out if layer < 2 else after, after[:, -out.shape[1] :] if layer < 2 else trace["norm"])
        assert model.attention_weights(trace, layer).shape == (2, 9, lengths[layer], lengths[layer])
    assert torch.equal(model(images), logits)


def test_gpsa_to_the_top_pools_by_the_mean_and_keeps_an_idle_class_token():
    model = small(local_up_to_layer=3)
    assert model.pool == "mean" and not model.cls_token.requires_grad and "cls_token" in model.state_dict()
    images, trace = torch.randn(2, 1, 12, 20), {}
    logits = model(images, trace)
    torch.testing.assert_close(logits, model.head(trace["norm"].mean(1)))
    logits.sum().backward()
    assert all((p.grad is None) == (name == "cls_token") for name, p in model.named_parameters())
    model.cls_token.data += 1
    assert torch.equal(model(images), logits)


def test_local_start_survives_the_model_wide_initialisation():
    for block in small(locality_strength=2.0).blocks[:2]:
        assert torch.equal(block.attn.v.weight, torch.eye(36))
        assert torch.equal(block.attn.pos_proj.weight[0], torch.tensor([-4.0, -4.0, -2.0]))
        assert 0.01 < block.attn.qk.weight.std() < 0.03
    free = small(positional_init=False, identity_values=False).blocks[0].attn
    assert free.pos_proj.weight.abs().max() < 0.1 and free.v.weight.diagonal().mean() < 0.1


@pytest.mark.parametrize("random", [False, True])
def test_init_gain_scales_the_matrices_of_the_blocks_by_their_fan_in_and_nothing_else(random):
    start = dict(embed_dim=144, positional_init=not random, identity_values=not random)
    paper, scaled = small(**start), small(**start, init_gain=0.5)
    usual = dict(paper.named_parameters())
    for name, parameter in scaled.named_parameters():
        layer, _, kind = name.rpartition(".")
        block_matrix = name.startswith("blocks.") and kind == "weight" and "norm" not in name
        if block_matrix and "pos_proj" not in name and (random or not layer.endswith("attn.v")):
            fan_in = 576 if "fc2" in name else 144
            assert parameter.std().item() == pytest.approx(0.5 / fan_in**0.5, rel=0.03), name
            assert usual[name].std().item() == pytest.approx(0.02, rel=0.03), name
        else:  # biases, norms, gates, tokens, patch embedding, head, positions: as in the paper
            assert torch.equal(parameter, usual[name]), name
    assert scaled.head.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert paper.config["init_gain"] is None and scaled.config["init_gain"] == 0.5


def test_a_seed_fixes_the_weights_and_nothing_else():
    state = torch.get_rng_state()
    first, same, other = (create_model("convit_mini_28", seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_drop_path_drops_whole_branches_and_keeps_the_mean():
    torch.manual_seed(0)
    out = drop_path(torch.ones(4000, 2, 3), 0.25, training=True)
    per_image = out.flatten(1)
    assert torch.equal(per_image.min(1).values, per_image.max(1).values)
    assert sorted(set(per_image[:, 0].tolist())) == pytest.approx([0, 4 / 3])
    assert out.mean() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop_path(out, 0.25, training=False), out)
    assert [block.drop_path_rate for block in small(drop_path_rate=0.2).blocks] == [0.0, 0.1, 0.2]


def test_stochastic_depth_leaves_out_either_branch_of_a_block(monkeypatch):
    """At a rate of nearly 1, training keeps no branch: a block then passes its input on, whatever its weights."""
    monkeypatch.setattr(torch, "rand", lambda *shape, device=None: torch.zeros(shape, device=device))
    block, x = small(drop_path_rate=0.5).blocks[2].train(), torch.randn(2, 16, 36)
    without = {"attn": block.mlp(block.norm2(x)), "mlp": block.attn(block.norm1(x), (4, 4))}
    assert torch.equal(block(x, (4, 4)), x)
    for branch, other in without.items():  # and each branch by itself: one that gives 0 leaves the other one's share
        getattr(block, branch).forward = lambda x, grid=None: torch.zeros_like(x)
        assert torch.equal(block(x, (4, 4)), x)
        block.eval()
        torch.testing.assert_close(block(x, (4, 4)), x + other)
        del getattr(block.train(), branch).forward


def test_resized_keeps_positional_attention_and_interpolates_absolute_embeddings():
    model = small()
    with torch.no_grad():
        for block in model.blocks[:2]:  # learned weights, not the initial ones
            block.attn.pos_proj.weight.normal_()
            block.attn.gating_param.normal_()
        model.pos_embed.normal_()
    same = model.resized((12, 20))
    images = torch.randn(2, 1, 12, 20)
    assert torch.equal(same(images), model(images)) and same.pos_embed is not model.pos_embed
    larger = model.resized((24, 40))
    assert larger.grid == (6, 10) and larger(torch.randn(1, 1, 24, 40)).shape == (1, 5)
    field = model.pos_embed.reshape(1, 3, 5, 36).permute(0, 3, 1, 2)
    cubic = F.interpolate(field, (6, 10), mode="bicubic", align_corners=False)  # centres of patches on one another
    assert torch.equal(larger.pos_embed, cubic.permute(0, 2, 3, 1).reshape(1, 60, 36))
    for old, new in zip(model.blocks[:2], larger.blocks[:2], strict=True):
        x = torch.zeros(1, 15, 36)  # equal content everywhere: what differs is position
        assert torch.equal(old.attn.weights(x, (3, 5)), new.attn.weights(x, (3, 5)))
    assert not small(local_up_to_layer=3).resized((24, 40)).cls_token.requires_grad
    assert model.train().resized(16).training and not model.eval().resized(16).training


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"img_size": (12, 18)}, "12 x 18 pixels cannot be cut into patches of 4 x 4"),
        ({"local_up_to_layer": 4}, "between 0 and the depth 3, got 4"),
        ({"pool": "max"}, "Unknown pool 'max'; known: token, mean"),
        ({"class_token_at": 1}, "class_token_at=1 must be a block after the last GPSA block"),
        ({"class_token_at": 2, "pool": "mean"}, "class_token_at has no meaning here"),
        ({"drop_path_rate": 1.0}, r"drop-path rate lies in \[0, 1\), got 1.0"),
        ({"local_up_to_layer": 1.5}, "local_up_to_layer is a whole number of at least 0, not 1.5"),
        ({"depth": 0, "local_up_to_layer": 0}, "depth is a whole number of at least 1, not 0"),
        ({"num_classes": -1}, "num_classes is a whole number of at least 0, not -1"),
        ({"img_size": (12.0, 20)}, "img_size is a whole number of at least 0, not 12.0"),
        ({"img_size": (12, 20, 3)}, r"img_size is a whole number or \(height, width\), got \(12, 20, 3\)"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio must be finite and leave the MLP a hidden unit, got nan"),
        ({"init_gain": 0.0}, "init_gain must be finite and above 0, or None for the paper's start, got 0.0"),
    ],
)
def test_bad_configurations_are_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        small(**overrides)


def test_whole_numbers_of_numpy_are_whole_and_unknown_settings_are_refused():
    assert len(small(depth=np.int64(4)).blocks) == 4
    with pytest.raises(TypeError, match="'mixing'"):
        small(mixing="gated")


def test_without_classes_a_model_gives_the_features_that_its_head_would_read():
    model = small(num_classes=0)
    images = torch.randn(2, 1, 12, 20)
    model(images, trace := {})
    assert torch.equal(model(images), trace["norm"][:, 0]) and model.config["num_classes"] == 0
    assert type(model)(**model.config).load_state_dict(model.state_dict())


def test_what_a_model_is_is_read_from_the_live_model():
    model = small()
    model.head = torch.nn.Linear(36, 37)
    model.set_drop_path(0.3)
    larger = model.resized((24, 40))
    assert larger(torch.randn(2, 1, 24, 40)).shape == (2, 37)
    assert larger.config == model.config | {"img_size": (24, 40)}
    assert larger.config["num_classes"] == 37 and larger.config["drop_path_rate"] == 0.3
    ConViT(**larger.config).load_state_dict(larger.state_dict())
    model.head = torch.nn.Sequential(torch.nn.Linear(36, 8), torch.nn.ReLU(), torch.nn.Linear(8, 6))
    assert model.config["num_classes"] == 6 and model.resized(16)(torch.randn(1, 1, 16, 16)).shape == (1, 6)


def test_bad_calls_are_named():
    for shape in ((2, 1, 20, 12), (1, 12, 20)):
        with pytest.raises(ValueError, match=r"expects images of shape \(batch, 1, 12, 20\), got"):
            small()(torch.zeros(shape))
    with pytest.raises(ValueError, match="Unknown model 'convit_huge'; known: convit_tiny, convit_small"):
        create_model("convit_huge")


@pytest.mark.slow
def test_importing_the_package_loads_neither_timm_nor_torchvision_nor_matplotlib():
    code = "import sys, convit_edu; print([m for m in ('timm', 'torchvision', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_core_imports_no_folder_below_it():
    core = Path(convit_edu.__file__).parent
    below = "|".join(path.parent.name for path in core.glob("*/__init__.py"))
    for path in {*core.glob("*.py")} - {core / "__main__.py"}:  # the command line, which starts every room
        assert not re.search(rf"^ *(from|import) .*\b({below})\b", path.read_text(), re.M), path.name


def test_no_number_is_made_double_on_a_device():
    """Apple's GPU has no float64: `.cpu()` comes before `.double()`, and no float64 tensor is made on another device.

    The checks of the exercises are exempt: all their numbers are made there, on the CPU.
    """
    converted = r"(?<!\.cpu\(\))\.(double\(\)|to\([^)]*float64)"
    made = r"""device=(?!["']cpu).*dtype=torch\.float64|dtype=torch\.float64.*device=(?!["']cpu)"""
    double = re.compile(f"{converted}|{made}")
    for bad in ("x.double().cpu()", "x.to(torch.float64)", "torch.ones(3, dtype=torch.float64, device=d)"):
        assert double.search(bad) and not double.search(bad.replace("x", "x.cpu()").replace("device=d", "device='cpu'"))
    root = Path(convit_edu.__file__).parent
    sources = [path for path in root.rglob("*.py") if "checks" not in path.parts]
    assert not [str(path) for path in sources if double.search(path.read_text())]
