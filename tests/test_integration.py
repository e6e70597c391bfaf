"""The fast form inside torch's own machinery: compile, export, DistributedDataParallel."""

import os

import pytest
import torch
import torch.multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from convit_edu import GPSA, create_model


@pytest.mark.slow
def test_one_compiled_layer_serves_three_grids():
    torch._dynamo.reset()
    layer = GPSA(36, 9).double()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)  # the graph, not the machine code
    for rows, columns in ((4, 4), (3, 7), (5, 2)):
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


def test_a_model_exports_with_a_free_batch_size():
    model = create_model("convit_mini_28", seed=0).eval()
    shapes = {"images": {0: torch.export.Dim("batch")}}
    program = torch.export.export(model, (torch.randn(3, 1, 28, 28),), dynamic_shapes=shapes)
    images = torch.randn(5, 1, 28, 28)
    torch.testing.assert_close(program.module()(images), model(images))


# --- tools that wrap or replace linear layers


def a_model(**overrides):
    """A small ConViT with weights as after training: no symmetry left, biases in use."""
    torch.manual_seed(0)
    model = create_model("convit_mini_28", depth=3, local_up_to_layer=2, **overrides).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def linear_layers(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


class Doubled(nn.Module):
    """A frozen linear layer and a trained number that its result is multiplied with, as adapters are made."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.by = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.by * self.base(x)


def test_an_adapter_on_every_linear_layer_is_the_model_with_other_weights():
    model, other, images, x = a_model(), a_model(), torch.randn(2, 1, 28, 28), torch.randn(2, 49, 72)
    names = list(linear_layers(model))
    assert {"blocks.0.attn.qk", "blocks.0.attn.v", "blocks.0.attn.pos_proj", "blocks.2.attn.qkv", "head"} <= set(names)
    for name in names:
        model.set_submodule(name, Doubled(model.get_submodule(name)))
        for parameter in other.get_submodule(name).parameters():
            parameter.data *= 2
    torch.testing.assert_close(model(images), other(images), rtol=0, atol=1e-4)
    both = (each.blocks[0].attn.weights(x) for each in (model, other))  # the readable form takes part too
    torch.testing.assert_close(*both, rtol=0, atol=1e-4)
    model(images).square().sum().backward()
    for name, p in model.named_parameters():
        assert (p.grad is None) == (".base." in name), name


@pytest.mark.parametrize("local", [0, 2, 3])
def test_a_hook_on_any_sub_module_fires(local):
    model = create_model("convit_mini_28", depth=3, local_up_to_layer=local)
    fired, modules = set(), {name: m for name, m in model.named_modules() if not isinstance(m, nn.ModuleList)}
    for name, module in modules.items():
        module.register_forward_hook(lambda *_, name=name: fired.add(name))
    model(torch.randn(2, 1, 28, 28))
    assert fired == set(modules)


def _worker(rank: int, folder: str) -> None:
    """Two steps of one process in two; rank 0 leaves its weights behind."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = DistributedDataParallel(create_model("convit_mini_28", seed=0, depth=2, local_up_to_layer=1))
    _two_steps(model, slice(4 * rank, 4 * rank + 4))
    if rank == 0:
        torch.save(model.module.state_dict(), os.path.join(folder, "weights.pt"))
    torch.distributed.barrier()
    # Seen once: taking the group down, a process held Python's lock while gloo's thread waited for it, for ever.
    os._exit(0)


def _two_steps(model: nn.Module, share: slice) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for _ in range(2):  # a parameter left without a gradient stops DistributedDataParallel at the second step
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[share]), torch.arange(8)[share]).backward()
        optimizer.step()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    torch.multiprocessing.spawn(_worker, args=(str(tmp_path),), nprocs=2)
    alone = create_model("convit_mini_28", seed=0, depth=2, local_up_to_layer=1)
    start = {name: value.clone() for name, value in alone.state_dict().items()}
    _two_steps(alone, slice(0, 8))
    together = torch.load(tmp_path / "weights.pt", weights_only=True)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert not torch.equal(start["blocks.0.attn.gating_param"], together["blocks.0.attn.gating_param"])
