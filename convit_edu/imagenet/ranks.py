"""Several processes that train one model together: starting, agreeing, adding up.

A process is called a rank, as in torch.distributed. What goes wrong is found out by all ranks together, so that
none waits for one that has left, and is said once, by rank 0.
"""

import os
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from ..evaluation import usable_device

Result = TypeVar("Result")


class Refusal(Exception):
    """Why a run cannot go on, in one sentence for the reader; empty where another rank says it."""


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
        self.device = self.agree(lambda: self._own(device))

    def _own(self, name: str) -> torch.device:
        device = usable_device(name)
        if device.type == "cuda" and self.world > 1:
            place, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
            if place >= gpus:
                raise Refusal(f"This machine has {gpus} GPU(s): start as many processes on it (--nproc-per-node).")
            device = torch.device("cuda", place)
            torch.cuda.set_device(device)
        return device

    def gather(self, value: Any) -> list:
        """The `value` of every rank, by rank; any picklable object."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value, group=self._control)
        return values

    def agree(self, action: Callable[[], Result]) -> Result:
        """What `action()` returns here; if it fails on any rank, the first failing rank's sentence as a Refusal."""
        result, problem = None, None
        try:
            result = action()
        except (Refusal, ValueError, OSError) as error:
            problem = str(error) or type(error).__name__
        if problems := [words for words in self.gather(problem) if words is not None]:
            self.refuse(problems[0])
        return result

    def refuse(self, words: str) -> NoReturn:
        """A Refusal that all ranks raise and the first says."""
        raise Refusal(words * (self.rank == 0))

    def add_gradients(self, model: nn.Module) -> None:
        """Every gradient becomes its sum over all ranks, in the same order after a restart as before it.

        DistributedDataParallel does it while the backward pass goes on, but adds in another order in its first
        step than in those after it, so that a resumed run would differ from an uninterrupted one.
        """
        if self.world == 1:
            return
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        sums = torch.cat([gradient.flatten() for gradient in gradients])  # one message in place of hundreds
        dist.all_reduce(sums)
        for gradient, part in zip(gradients, sums.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(part.view_as(gradient))
