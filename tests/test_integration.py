"""The fast form inside torch's own machinery: compile, export, DistributedDataParallel."""

import os
import shutil

import pytest
import torch
import torch.multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from convit_edu import GPSA, SelfAttention, create_model

GRIDS = [(4, 4), (3, 7), (5, 2)]
COMPILERS = [
    "eager",
    pytest.param(
        "inductor",
        marks=pytest.mark.skipif(
            not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="inductor needs a C++ compiler"
        ),
    ),
]


@pytest.mark.parametrize("backend", COMPILERS)
@pytest.mark.parametrize("layer_type", [GPSA, SelfAttention])
def test_one_compiled_layer_serves_three_grids(backend, layer_type):
    torch._dynamo.reset()
    layer = layer_type(36, 9).double()
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    for rows, columns in GRIDS:
        x = torch.randn(2, rows * columns, 36, dtype=torch.float64)
        layer.zero_grad()
        expected = layer(x, (rows, columns))
        expected.square().sum().backward()
        gradients = {name: p.grad.clone() for name, p in layer.named_parameters()}
        layer.zero_grad()
        output = compiled(x, (rows, columns))
        output.square().sum().backward()
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
        for name, p in layer.named_parameters():
            torch.testing.assert_close(p.grad, gradients[name], rtol=1e-10, atol=1e-10, msg=name)


def test_a_whole_model_compiles_in_one_graph():
    torch._dynamo.reset()
    model = create_model("convit_mini_28", seed=0).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(compiled(images), model(images))


@pytest.mark.parametrize("grid", [(4, 4), (3, 7)])
def test_a_layer_exports_with_a_free_batch_size(grid):
    layer = GPSA(36, 9).eval()
    x = torch.randn(3, grid[0] * grid[1], 36)
    shapes = {"x": {0: torch.export.Dim("batch")}, "grid": (None, None)}
    program = torch.export.export(layer, (x,), {"grid": grid}, dynamic_shapes=shapes)
    larger = torch.randn(5, grid[0] * grid[1], 36)
    torch.testing.assert_close(program.module()(larger, grid=grid), layer(larger, grid))


def test_a_model_exports():
    model = create_model("convit_mini_28", seed=0).eval()
    program = torch.export.export(model, (torch.randn(2, 1, 28, 28),))
    images = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(program.module()(images), model(images))


def _worker(rank: int, folder: str) -> None:
    """Two steps of one process in two; rank 0 leaves its weights behind."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = DistributedDataParallel(create_model("convit_mini_28", seed=0, depth=2, local_up_to_layer=1))
    _two_steps(model, slice(4 * rank, 4 * rank + 4))
    if rank == 0:
        torch.save(model.module.state_dict(), os.path.join(folder, "weights.pt"))
    torch.distributed.destroy_process_group()


def _two_steps(model: nn.Module, share: slice) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for _ in range(2):  # a parameter left without a gradient stops DistributedDataParallel at the second step
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[share]), torch.arange(8)[share]).backward()
        optimizer.step()


def test_two_processes_train_as_one(tmp_path):
    torch.multiprocessing.spawn(_worker, args=(str(tmp_path),), nprocs=2)
    alone = create_model("convit_mini_28", seed=0, depth=2, local_up_to_layer=1)
    start = {name: value.clone() for name, value in alone.state_dict().items()}
    _two_steps(alone, slice(0, 8))
    together = torch.load(tmp_path / "weights.pt")
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert not torch.equal(start["blocks.0.attn.gating_param"], together["blocks.0.attn.gating_param"])
