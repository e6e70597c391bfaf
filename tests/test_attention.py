"""GPSA and SelfAttention: the two methods agree, the limits are those of the paper, bad input is named."""

import pytest
import torch
import torch.nn.functional as F

from convit_edu import GPSA, SelfAttention
from convit_edu.beyond.single_softmax import PSA

GRIDS = [(1, 1), (1, 6), (5, 1), (4, 4), (3, 7)]


def learned(num_heads=9, dim=36, grid=(4, 4), dtype=torch.float64, seed=0, scale=1.0, batch=2, layer=GPSA, **options):
    """A GPSA with random weights everywhere, as after training, and an input for it."""
    generator = torch.Generator().manual_seed(seed)
    layer = layer(dim, num_heads, **options).to(torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale / 3)
    x = torch.randn(batch, grid[0] * grid[1], dim, generator=generator, dtype=torch.float64)
    return layer.to(dtype), x.to(dtype).requires_grad_()


def readable(layer, x, grid=None):
    """What forward computes, by the stored attention."""
    (v,) = layer._split_heads(layer.v(x), 1)
    return layer.proj((layer.weights(x, grid).to(v.dtype) @ v).transpose(1, 2).flatten(2))


def gradients(function, layer, x):
    """Output, then the gradient of a fixed random functional of it, for the input and every parameter."""
    layer.zero_grad()
    x.grad = None
    output = function(x)
    probe = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (output * probe.to(output.dtype)).sum().backward()
    return {"output": output, "x": x.grad} | {name: p.grad for name, p in layer.named_parameters()}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("initial", [True, False])
def test_forward_equals_the_readable_form_with_every_gradient(grid, initial):
    layer, x = learned(grid=grid, qkv_bias=True)
    if initial:
        layer.local_init()
    fast = gradients(lambda x: layer(x, grid), layer, x)
    slow = gradients(lambda x: readable(layer, x, grid), layer, x)
    assert fast.keys() == slow.keys()
    for name in fast:
        scale = max(1.0, slow[name].abs().max().item())
        torch.testing.assert_close(fast[name] / scale, slow[name] / scale, rtol=0, atol=1e-12, msg=name)
    # The bias cancels in the softmax: a gradient there is (DistributedDataParallel asks for it), and it is zero.
    assert fast["pos_proj.bias"].abs().max() < 1e-12


@pytest.mark.parametrize("grid", GRIDS)
def test_rows_of_the_weights_sum_to_one(grid):
    for layer in (learned(grid=grid)[0], SelfAttention(36, 9).double(), learned(layer=PSA)[0]):
        weights = layer.weights(torch.randn(2, grid[0] * grid[1], 36).double(), grid)
        assert weights.shape == (2, 9, grid[0] * grid[1], grid[0] * grid[1])
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.float16, 0.004)])
@pytest.mark.parametrize("side", [6, 33])  # 33 x 33 > 1,024 tokens: the fused kernel in half precision too
def test_lower_precision_stays_within_its_rounding(dtype, rounding, side):
    """Against float64, relative to the largest output: about eight units in the last place."""
    exact, x64 = learned(grid=(side, side), batch=1, scale=0.5)
    low, x = learned(grid=(side, side), batch=1, scale=0.5, dtype=dtype)
    assert low.pos_proj.weight.dtype == dtype
    difference = (low(x).double() - exact(x64)).abs().max() / exact(x64).abs().max()
    assert difference < rounding


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_autocast_on_the_cpu(precision):
    layer, x = learned(dtype=torch.float32, scale=0.5)
    exact = layer(x)
    with torch.autocast("cpu", precision):
        mixed, weights = layer(x), layer.weights(x)
    assert mixed.dtype == precision and weights.dtype == torch.float32
    assert (mixed.float() - exact).abs().max() < 0.03 * exact.abs().max()
    mixed.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_cuda_agrees_with_the_cpu(dtype):
    exact, x64 = learned(grid=(5, 7), scale=0.5)
    layer, x = learned(grid=(5, 7), scale=0.5, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    layer, x = layer.cuda(), x.cuda()
    with torch.autocast("cuda", dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
        output = layer(x, (5, 7))
    bound = {torch.float64: 1e-12, torch.float32: 1e-4}.get(dtype, 0.03)
    assert (output.cpu().double() - exact(x64, (5, 7))).abs().max() < bound * exact(x64, (5, 7)).abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_huge_strength_on_a_wide_grid_stays_finite(dtype):
    layer = GPSA(36, 9, locality_strength=1e4).to(dtype)
    x = torch.randn(1, 2 * 64, 36).to(dtype).requires_grad_()
    output = layer(x, (2, 64))
    output.float().square().mean().backward()
    assert output.isfinite().all()
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in layer.parameters())


def test_at_gate_zero_attention_is_by_content():
    layer, x = learned()
    with torch.no_grad():
        layer.gating_param.fill_(-800.0)
        q, k = layer._split_heads(layer.qk(x), 2)
        content = F.softmax(q @ k.transpose(-2, -1) / 2.0, dim=-1)  # sqrt(d) = 2
        torch.testing.assert_close(layer.weights(x), content, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", [(5, 5), (3, 6)])
def test_nine_sharp_heads_at_gate_one_are_a_3x3_convolution(grid):
    """Eq 5: head h moves its channels by Delta_h, then W_out mixes them; borders repeat the nearest patch."""
    layer = GPSA(36, 9, locality_strength=100.0).double()
    with torch.no_grad():
        layer.gating_param.fill_(40.0)
    x = torch.randn(2, grid[0] * grid[1], 36).double()
    # The same map as a dense 3 x 3 kernel (D, D, 3, 3): head h holds tap (x, y) and reads only its own 4 channels.
    kernel = torch.zeros(36, 36, 3, 3, dtype=torch.float64)
    for head in range(9):
        own = slice(4 * head, 4 * head + 4)
        column, row = divmod(head, 3)
        kernel[:, own, row, column] = layer.proj.weight.detach()[:, own]
    image = x.transpose(1, 2).reshape(2, 36, *grid)
    expected = F.conv2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), kernel, layer.proj.bias)
    torch.testing.assert_close(layer(x, grid), expected.flatten(2).transpose(1, 2), rtol=0, atol=1e-6)


def test_self_attention_equals_torch_multihead_attention():
    ours = SelfAttention(24, 4, qkv_bias=True).double()
    theirs = torch.nn.MultiheadAttention(24, 4, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.proj.weight)
        theirs.out_proj.bias.copy_(ours.proj.bias)
    x = torch.randn(2, 10, 24).double()
    output, weights = theirs(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(ours(x), output, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.weights(x), weights, rtol=0, atol=1e-12)


def test_single_softmax_adds_the_scores_and_trains_no_gate():
    layer, x = learned(layer=PSA)
    q, k = layer._split_heads(layer.qk(x), 2)
    expected = (q @ k.transpose(-2, -1) / 2.0).exp()
    gated, _ = learned()
    with torch.no_grad():
        gated.gating_param.fill_(800.0)  # the same positional scores, alone
    expected = expected * gated.weights(x)
    torch.testing.assert_close(layer.weights(x), expected / expected.sum(-1, keepdim=True), rtol=0, atol=1e-12)
    torch.testing.assert_close(layer(x), readable(layer, x), rtol=0, atol=1e-12)
    assert not layer.gating_param.requires_grad and "gating_param" in layer.state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 30, "num_heads": 4}, "dim=30 cannot be shared equally by num_heads=4"),
        ({"dim": 36, "num_heads": 6}, "6 heads cannot form a square kernel"),
        ({"dim": 36, "num_heads": 9, "locality_strength": -1.0}, "finite and not negative, got -1.0"),
        ({"dim": 36, "num_heads": 9, "locality_strength": float("nan")}, "finite and not negative, got nan"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GPSA(**options)


def test_bad_inputs_are_named():
    layer = GPSA(36, 9)
    with pytest.raises(ValueError, match="3 x 5 holds 15 patches, but the input has 16"):
        layer.weights(torch.zeros(1, 16, 36), (3, 5))
    assert GPSA(36, 6, positional_init=False).weights(torch.zeros(1, 16, 36)).shape == (1, 6, 16, 16)
