from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from smallm.windows import OVERLAP, cut, stitch


@given(st.integers(0, 3000), st.integers(80, 300))
def test_cores_partition_the_text_and_windows_fit(length: int, size: int) -> None:
    windows = cut(length, size)
    assert [i for window in windows for i in range(window.core_start, window.core_end)] == list(range(length))
    assert all(window.end - window.start <= size for window in windows)
    assert all(window.start <= window.core_start < window.core_end <= window.end for window in windows)


@given(st.integers(0, 3000), st.integers(80, 300))
def test_stitching_what_was_cut_gives_the_sequence_back(length: int, size: int) -> None:
    sequence = np.arange(length, dtype=np.float32)[:, None]
    windows = cut(length, size)
    if windows:
        assert np.array_equal(stitch(windows, [sequence[window.start : window.end] for window in windows]), sequence)


def test_every_token_away_from_the_ends_has_context_on_both_sides() -> None:
    for window in cut(1000, 254):
        assert window.core_start == 0 or window.core_start - window.start >= OVERLAP // 2
        assert window.core_end == 1000 or window.end - window.core_end >= OVERLAP // 2
