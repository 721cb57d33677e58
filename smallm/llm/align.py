"""From answered strings to offsets in the text."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from smallm.documents import Span
from smallm.llm.parse import Mention


def align(mentions: Iterable[Mention], text: str, types: Collection[str]) -> list[Span]:
    """Spans of `mentions` in `text`, ascending and free of overlaps.

    Mentions are looked for from left to right in the order answered; one that comes out of order
    is looked for from the start, in what is still free. What the text does not hold, and types
    that were not asked for, are dropped.
    """
    taken: list[Span] = []
    cursor = 0
    for mention in mentions:
        if mention.type not in types:
            continue
        start = _free(mention.text, text, cursor, taken)
        if start is None and cursor:
            start = _free(mention.text, text, 0, taken)
        if start is None:
            continue
        end = start + len(mention.text)
        taken.append(Span(start, end, mention.type))
        cursor = max(cursor, end)
    return sorted(taken)


def _free(wanted: str, text: str, begin: int, taken: list[Span]) -> int | None:
    start = text.find(wanted, begin)
    while start >= 0:
        clash = next((span for span in taken if span.start < start + len(wanted) and span.end > start), None)
        if clash is None:
            return start
        start = text.find(wanted, clash.end)
    return None
