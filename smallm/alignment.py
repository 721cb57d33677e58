"""Between character spans and token tags: the one place where the two meet."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from smallm.documents import Span
from smallm.labels import LabelSet, TagSpan

Offsets = Sequence[tuple[int, int]]


def token_span(span: Span, offsets: Offsets) -> TagSpan | None:
    """The tokens that overlap `span`; None if there are none (a span of white space, say).

    `offsets` are ascending, as Tokens has them.
    """
    first = bisect_right(offsets, span.start, key=_end)
    last = bisect_left(offsets, span.end, key=_start)
    return TagSpan(first, last, span.type) if first < last else None


def spans_to_tags(spans: Iterable[Span], offsets: Offsets, labels: LabelSet) -> list[int]:
    """BIO tag ids per token. Where two spans meet in one token the earlier span keeps it."""
    tags = [0] * len(offsets)
    for span in spans:
        tokens = token_span(span, offsets)
        if tokens is None:
            continue
        start = next((i for i in range(tokens.start, tokens.end) if not tags[i]), tokens.end)
        if start < tokens.end:
            begin = labels.begin(span.type)
            tags[start : tokens.end] = [begin] + [begin + 1] * (tokens.end - start - 1)
    return tags


def tags_to_spans(tags: Sequence[int], offsets: Offsets, labels: LabelSet) -> list[Span]:
    """Character spans of BIO tag ids, from the first token's start to the last token's end.

    Free of overlaps: of two spans that meet inside one character (㎡ is two tokens) the first stays.
    """
    spans: list[Span] = []
    for run in labels.decode(tags):
        span = Span(offsets[run.start][0], offsets[run.end - 1][1], run.type)
        if not spans or span.start >= spans[-1].end:
            spans.append(span)
    return spans


def _start(offset: tuple[int, int]) -> int:
    return offset[0]


def _end(offset: tuple[int, int]) -> int:
    return offset[1]
