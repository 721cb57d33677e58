"""Offsets in every unit lead to the same slice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallm.offsets import OffsetUnit, convert

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ENCODED = {
    OffsetUnit.CODE_POINTS: ("utf-32-le", 4),
    OffsetUnit.UTF16_CODE_UNITS: ("utf-16-le", 2),
    OffsetUnit.UTF8_BYTES: ("utf-8", 1),
}


@pytest.mark.parametrize("unit", list(OffsetUnit))
@given(text=TEXT, data=st.data())
def test_a_slice_in_any_unit_is_the_slice_in_code_points(unit: OffsetUnit, text: str, data: st.DataObject) -> None:
    positions = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    encoding, width = ENCODED[unit]
    raw = text.encode(encoding)
    told = convert(text, positions, unit)
    for a, b, start, end in zip(positions, positions[1:], told, told[1:], strict=False):
        assert raw[start * width : end * width].decode(encoding) == text[a:b]


def test_a_character_beyond_the_basic_plane_counts_two_and_four() -> None:
    assert convert("𠮷泵a", [0, 1, 2, 3], OffsetUnit.UTF16_CODE_UNITS) == [0, 2, 3, 4]
    assert convert("𠮷泵a", [0, 1, 2, 3], OffsetUnit.UTF8_BYTES) == [0, 4, 7, 8]
