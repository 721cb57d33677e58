"""Derived answers as bytes: one BIO tag id a code point of the text, expanded where it is used."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from smallm.documents import Span
from smallm.labels import LabelSet, TagSpan

_SMALL, _LARGE = np.dtype("u1"), np.dtype("<u2")


def encode(spans: Iterable[Span], length: int, labels: LabelSet) -> bytes:
    """Spans of a text of `length` code points; one byte each, two where there are more than 256 tags."""
    tags = labels.encode((TagSpan(span.start, span.end, span.type) for span in spans), length)
    return np.array(tags, dtype=_dtype(labels)).tobytes()


def tag_ids(packed: bytes, labels: LabelSet) -> NDArray[np.unsignedinteger]:
    """Tag ids of shape (length,), read-only, without a copy."""
    return np.frombuffer(packed, dtype=_dtype(labels))


def one_hot(packed: bytes, labels: LabelSet) -> NDArray[np.float32]:
    """Rows of shape (length, N), one 1 each."""
    ids = tag_ids(packed, labels)
    rows = np.zeros((len(ids), labels.num_tags), dtype=np.float32)
    rows[np.arange(len(ids)), ids] = 1.0
    return rows


def decode(packed: bytes, labels: LabelSet) -> list[Span]:
    """The inverse of `encode`. Reads only where tags change: most of a text is O."""
    ids = tag_ids(packed, labels).astype(np.int64)
    starts = np.flatnonzero(ids % 2 == 1)  # a B, and nothing but a B, starts a span: `encode` wrote it
    inside = np.append((ids != 0) & (ids % 2 == 0), False)
    ends = np.flatnonzero(~inside[1:] & (ids != 0)) + 1
    return [
        Span(int(start), int(end), labels.types[int(ids[start]) // 2]) for start, end in zip(starts, ends, strict=True)
    ]


def _dtype(labels: LabelSet) -> np.dtype[np.unsignedinteger]:
    return _SMALL if labels.num_tags <= 256 else _LARGE
