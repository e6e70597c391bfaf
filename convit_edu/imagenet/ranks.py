"""Several processes that train one model together: starting, agreeing, exchanging what is not a gradient.

A process is called a rank, as in torch.distributed. What goes wrong is found out by all ranks together, so that
none waits for one that has left, and is said once, by rank 0.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..train import pick_device

Result = TypeVar("Result")


class Refusal(Exception):
    """Why a run cannot go on, in one sentence for the reader. Every rank raises it, the first says it."""


class Unreadable(Refusal):
    """A picture that one rank alone cannot read: that rank says it."""


def is_first() -> bool:
    """Whether this process is rank 0, or alone."""
    return int(os.environ.get("RANK", 0)) == 0


class Ranks:
    """This process among the `world` processes of a run: its number `rank` and its `device`.

    Under torchrun it joins the others, by nccl on CUDA and by gloo on the CPU; started plainly it is alone.
    Raises Refusal for a device that is not there.
    """

    def __init__(self, device: str = "auto"):
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.world > 1:  # gloo first: it carries every message, and no GPU is needed to say that one is missing
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
            self._control = dist.new_group(backend="gloo")
        self.device = self.agree(lambda: self._pick(device))

    def _pick(self, name: str) -> torch.device:
        try:
            device = pick_device(name)
            if device.type == "cuda" and self.world > 1:
                device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
                torch.cuda.set_device(device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise Refusal(
                f"There is no device {name} for process {self.rank + 1} of {self.world} that PyTorch can use; try "
                "--device cpu, or as many processes as there are GPUs (--nproc-per-node)."
            ) from error
        return device

    def gather(self, value: Any) -> list:
        """The `value` of every rank, by rank; any picklable object."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value, group=self._control)
        return values

    def agree(self, action: Callable[[], Result]) -> Result:
        """What `action()` returns here; if it fails on any rank, the first failing rank's Refusal on all of them."""
        result, problem = None, None
        try:
            result = action()
        except (Refusal, ValueError, OSError) as error:
            problem = str(error) or type(error).__name__
        if problems := [words for words in self.gather(problem) if words is not None]:
            raise Refusal(problems[0])
        return result

    def parallel(self, model: nn.Module) -> nn.Module:
        """`model`, whose gradients are the mean over all ranks from now on."""
        if self.world == 1:
            return model
        index = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=index, gradient_as_bucket_view=True)
