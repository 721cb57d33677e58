"""Finding the few MatMuls that must stay fp32 for an int8 encoder to pass its gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Result = TypeVar("Result")


def smallest(
    ranked: Sequence[str], attempt: Callable[[Sequence[str]], Result], passes: Callable[[Result], bool]
) -> tuple[list[str], Result]:
    """The shortest head of `ranked` (worst first) that passes, and what `attempt` made of it.

    Doubles until one passes, then halves the gap: about 2 log2(n) attempts. If none passes, all of `ranked` and its
    result. What is attempted last is what is returned.
    """
    tried: dict[int, Result] = {}

    def try_(size: int) -> bool:
        tried[size] = attempt(ranked[:size])
        return passes(tried[size])

    failed, size = 0, 1
    while not try_(size):
        if size == len(ranked):
            return list(ranked), tried[size]
        failed, size = size, min(2 * size, len(ranked))
    last = size
    while size - failed > 1:
        middle = last = (failed + size) // 2
        failed, size = (failed, middle) if try_(middle) else (middle, size)
    result = tried[size] if last == size else attempt(ranked[:size])
    return list(ranked[:size]), result
