"""Code-point offsets in the unit that a caller counts in: the one place that converts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum


class OffsetUnit(StrEnum):
    """What an offset counts."""

    CODE_POINTS = "code_points"
    UTF16_CODE_UNITS = "utf16_code_units"
    UTF8_BYTES = "utf8_bytes"


_LENGTH: dict[OffsetUnit, Callable[[str], int]] = {
    OffsetUnit.CODE_POINTS: len,
    OffsetUnit.UTF16_CODE_UNITS: lambda text: len(text.encode("utf-16-le")) // 2,
    OffsetUnit.UTF8_BYTES: lambda text: len(text.encode()),
}


def convert(text: str, positions: Sequence[int], unit: OffsetUnit) -> list[int]:
    """Ascending code-point `positions` of `text`, in `unit`. `text` holds no lone surrogate."""
    length, converted, before, sum_ = _LENGTH[unit], [], 0, 0
    for position in positions:
        sum_ += length(text[before:position])
        before = position
        converted.append(sum_)
    return converted
