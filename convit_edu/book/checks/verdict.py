"""What all checks share: the verdict that is printed, and comparisons that end in words."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor


class NotYet(Exception):
    """What is wrong with an answer, in one sentence for the reader."""


def exercise(check: Callable[..., None]) -> Callable[..., None]:
    """Turn a check that raises NotYet into one that prints its verdict."""

    @functools.wraps(check)
    def verdict(*answer) -> None:
        try:
            check(*answer)
        except NotYet as problem:
            print(f"Not yet: {problem}")
        except Exception as error:  # the reader's own code failed: that is an answer too
            print(f"Not yet: your code stopped with {type(error).__name__}: {error}")
        else:
            print("Correct.")

    return verdict


def given(answer: object, more: str = ""):
    """The answer, or NotYet where the function returned nothing."""
    if answer is None or answer is ...:
        raise NotYet(f"the function returned {answer}{more}.")
    return answer


def tensor(answer: object, shape: tuple[int, ...], what: str = "your answer") -> Tensor:
    """The answer as a float64 tensor of the given shape, or NotYet."""
    if answer is None or answer is ...:
        raise NotYet(f"{what} is {answer}; does the function return something?")
    answer = torch.as_tensor(answer, dtype=torch.float64)
    if answer.shape != shape:
        raise NotYet(f"{what} has shape {tuple(answer.shape)}, expected {shape}.")
    return answer


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b.to(a.dtype), rtol=1e-6, atol=1e-8)


def diagnose(answer: Tensor, right: Tensor, mistakes: dict[str, Tensor], otherwise: str) -> None:
    """NotYet with the words of the mistake that the answer equals, or with `otherwise`."""
    if close(answer, right):
        return
    raise NotYet(next((words for words, wrong in mistakes.items() if close(answer, wrong)), otherwise))


def random_tensor(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tell(found: float, right: float, mistakes: dict[str, float], where="", otherwise="", within: float = 1e-6) -> None:
    """NotYet with the words of the wrong number that was found, or `otherwise` with both; nothing for the right one."""
    if abs(found - right) > within:
        known = (words for words, wrong in mistakes.items() if abs(found - wrong) <= within)
        why = next(known, otherwise or f"it is {right:g}, you have {found:g}")
        raise NotYet(f"{where}{why}.")


def tell_half_width(half: float, differences: Tensor, mistakes: dict[str, float]) -> None:
    """NotYet unless this is the half-width of the 95 % interval of five paired differences; t may be exact."""
    error, right = differences.std().item() / 5**0.5, 2.776 * differences.std().item() / 5**0.5
    tell(half, right, {
        "this is the standard error; multiply by t": error,
        "1.96 belongs to many seeds; five need 2.776": 1.96 * error,
        "divide the standard deviation by the root of the number of seeds": right * 5**0.5,
        "divide the squares by n - 1, not by n": right * 0.8**0.5,
        **mistakes,
    }, otherwise=f"the half-width should be {right:.3f}, yours is {half:.3f}", within=1e-3)  # fmt: skip
