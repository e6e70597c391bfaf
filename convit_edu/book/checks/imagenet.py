"""Checks for the exercises of chapter 13: the real recipe."""

from collections.abc import Callable

import torch

from .verdict import NotYet, exercise, given, tell


@exercise
def check_cost(cost: Callable[..., tuple]) -> None:
    """A function (images, epochs, rate, gpus, watts) -> hours and kilowatt-hours."""
    images, epochs, rate, gpus, watts = 720_000, 10, 500.0, 4, 250.0
    hours, energy = (float(part) for part in given(cost(images, epochs, rate, gpus, watts)))
    right = images * epochs / (rate * gpus) / 3600
    tell(hours, right, {
        "these are seconds; an hour has 3600": right * 3600, "these are minutes": right * 60,
        "these are GPU-hours; the GPUs work at the same time": right * gpus, "this is one epoch": right / epochs,
    }, "hours: ")  # fmt: skip
    right *= gpus * watts / 1000
    tell(energy, right, {
        "these are watt-hours": right * 1000, "all GPUs draw power": right / gpus,
        "power times hours, not seconds": right * 3600, "these are megajoules": right * 3.6,
    }, "energy in kWh: ")  # fmt: skip


@exercise
def check_group_order(order: Callable[[int, int, int, int, int], object]) -> None:
    """A function (images, groups, repeats, epoch, group) -> the images of this group in this epoch, in order."""
    for images, groups, repeats, epoch in ((10, 2, 3, 0), (10, 2, 3, 4), (12, 4, 2, 1), (9, 3, 1, 7)):
        shuffled = torch.randperm(images, generator=torch.Generator().manual_seed(epoch))
        copies, length = shuffled.repeat_interleave(repeats), -(-images // groups)
        for group in range(groups):
            answer = [int(index) for index in given(order(images, groups, repeats, epoch, group))]
            strided = copies[group::groups].tolist()
            if answer == strided[:length]:
                continue
            block, beside = len(copies) // groups, "the copies of an image stand side by side (repeat_interleave)."
            mistakes = {
                tuple(strided): f"too long: a group takes {length} of {images} images, and an epoch ends there.",
                tuple(shuffled.repeat(repeats)[group::groups][:length].tolist()): beside,
                tuple(copies[group * block :][:length].tolist()): "deal like cards: group g takes places g, g + G, "
                "g + 2G, ..., so that the copies of an image go to different groups.",
                tuple(shuffled[group::groups][:length].tolist()): beside,
                tuple(torch.arange(images).repeat_interleave(repeats)[group::groups][:length].tolist()): "the images "
                "are not shuffled.",
            }
            other = "compare with the order of the text: shuffle with the epoch as seed, copy, deal, cut."
            raise NotYet(
                f"{images} images, {groups} groups, {repeats} copies, epoch {epoch}, group {group}: "
                f"{mistakes.get(tuple(answer), other)}"
            )
