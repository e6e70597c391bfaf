"""Checks for the exercises of chapter 13: the real recipe."""

from collections.abc import Callable

import torch

from .verdict import NotYet, exercise


def whole(answer: object, what: str) -> int:
    """The answer as a whole number, or NotYet."""
    if answer is None or answer is ...:
        raise NotYet(f"{what} is {answer}; does the function return something?")
    if int(answer) != answer:
        raise NotYet(f"{what} is {answer}, and should be a whole number.")
    return int(answer)


def first_difference(answers: dict, expected: dict) -> tuple | None:
    return next((case for case in expected if answers[case] != expected[case]), None)


@exercise
def check_epoch_steps(steps: Callable[[int, int, int], int]) -> None:
    """A function (images, groups, size) -> steps of an epoch."""
    cases = [(1_281_167, 8, 128), (1_281_167, 4, 256), (10_100, 4, 625), (1_000, 2, 100)]
    answers = {case: whole(steps(*case), f"the number of steps for {case}") for case in cases}
    expected = {(m, g, b): m // 256 * 256 // g // b for m, g, b in cases}
    case = first_difference(answers, expected)
    if case is None:
        return
    m, g, b = case
    mistakes = {
        m // g // b: "the images are first rounded down to a multiple of 256.",
        -(-m // (g * b)): "the last step would be incomplete, and is left out: round down.",
        3 * m // 256 * 256 // g // b: "an epoch is cut off after M images; the copies do not make it longer.",
        m // 256 * 256 // 3 // g // b: "the copies count: fewer images are seen, but as many are trained on.",
        m // 256 * 256 // b: "a step takes all groups at once: divide by their number too.",
    }
    why = mistakes.get(answers[case], "round down to a multiple of 256, share among the groups, then cut into steps.")
    raise NotYet(f"for {case} there are {expected[case]} steps, yours are {answers[case]}: {why}")


@exercise
def check_cost(cost: Callable[..., tuple]) -> None:
    """A function (images, epochs, rate, gpus, watts) -> hours and kilowatt-hours."""
    images, epochs, rate, gpus, watts = 720_000, 10, 500.0, 4, 250.0
    answer = cost(images, epochs, rate, gpus, watts)
    if answer is None or answer is ...:
        raise NotYet(f"the function returned {answer}.")
    hours, energy = (float(part) for part in answer)
    right = images * epochs / (rate * gpus) / 3600
    for wrong, why in (
        (right * 3600, "these are seconds; an hour has 3600."),
        (right * gpus, "these are GPU-hours; the GPUs work at the same time."),
        (right / epochs, "this is one epoch."),
        (right * 60, "these are minutes."),
    ):
        if abs(hours - wrong) < 1e-6 * wrong:
            raise NotYet(f"hours are {hours:g}: {why}")
    if abs(hours - right) > 1e-6:
        raise NotYet(f"hours should be {right:g}, yours are {hours:g}: images to train on, over images an hour.")
    right = right * gpus * watts / 1000
    for wrong, why in (
        (right * 1000, "these are watt-hours."),
        (right / gpus, "all GPUs draw power."),
        (right * 3600, "power times hours, not seconds."),
        (right * 3.6, "these are megajoules."),
    ):
        if abs(energy - wrong) < 1e-6 * wrong:
            raise NotYet(f"the energy is {energy:g}: {why}")
    if abs(energy - right) > 1e-6:
        raise NotYet(f"the energy should be {right:g} kWh, yours is {energy:g}.")


@exercise
def check_group_order(order: Callable[[int, int, int, int, int], object]) -> None:
    """A function (images, groups, repeats, epoch, group) -> the images of this group in this epoch, in order."""
    for images, groups, repeats, epoch in ((10, 2, 3, 0), (10, 2, 3, 4), (12, 4, 2, 1), (9, 3, 1, 7)):
        shuffled = torch.randperm(images, generator=torch.Generator().manual_seed(epoch))
        copies, length = shuffled.repeat_interleave(repeats), -(-images // groups)
        for group in range(groups):
            answer = order(images, groups, repeats, epoch, group)
            if answer is None or answer is ...:
                raise NotYet(f"the function returned {answer}.")
            answer = [int(index) for index in answer]
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


@exercise
def check_place(place: Callable[..., int]) -> None:
    """A function (process, processes, groups, size, step, i) -> place in the epoch of the i-th image of this step."""
    groups, size, steps = 4, 3, 2
    for processes in (4, 2, 1):
        share, seen = groups // processes, {}
        for process in range(processes):
            for step in range(steps):
                for i in range(share * size):
                    answer = whole(place(process, processes, groups, size, step, i), "a place")
                    group, within = process * share + i // size, step * size + i % size
                    if answer == within * groups + group:
                        seen[answer] = (process, step, i)
                        continue
                    words = f"process {process} of {processes}, step {step}, image {i}: "
                    if processes < groups and step == 0 and process == 0:
                        raise NotYet(f"{words}right with one group a process; here one has {share}, one after another.")
                    if answer in seen:
                        raise NotYet(f"{words}place {answer} is taken by (process, step, image) {seen[answer]}.")
                    if answer == group * size * steps + within:
                        raise NotYet(f"{words}groups are no blocks; neighbouring places belong to different groups.")
                    if answer == (i % size) * groups + group:
                        raise NotYet(f"{words}the steps before this one have taken {step * size} places of each group.")
                    raise NotYet(f"{words}this is place {within * groups + group} of the epoch, yours is {answer}.")
