"""Cutting a long token sequence into overlapping encoder windows, and stitching what comes back.

Used alike in training, evaluation and serving: every token's vector comes from the window in which
it has the most context, so that all later steps see one sequence per text, however long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OVERLAP = 64  # tokens two neighbouring windows share


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens `start` to `end` go through the encoder; `core_start` to `core_end` are kept of them."""

    start: int
    end: int
    core_start: int
    core_end: int


def cut(length: int, size: int) -> list[Window]:
    """Windows of at most `size` tokens whose cores partition 0..length.

    Raises ValueError if `size` is not above the overlap.
    """
    if length <= size:
        return [Window(0, length, 0, length)] if length else []
    overlap = min(OVERLAP, size // 2)
    step = size - overlap
    starts = [*range(0, length - size, step), length - size]
    ends = [start + size for start in starts]
    borders = [0, *((end + start) // 2 for end, start in zip(ends[:-1], starts[1:], strict=True)), length]
    cores = zip(borders[:-1], borders[1:], strict=True)
    return [Window(s, e, *core) for s, e, core in zip(starts, ends, cores, strict=True)]


def stitch(windows: Sequence[Window], outputs: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
    """Concatenate the cores of `outputs`, one array of shape (window length, ...) per window."""
    cores = [
        output[window.core_start - window.start : window.core_end - window.start]
        for window, output in zip(windows, outputs, strict=True)
    ]
    return np.concatenate(cores)
