"""CLUENER 2020: {"text", "label": {TYPE: {MENTION: [[start, end], ...]}}} a line, end inclusive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from smallm.documents import Document, Span
from smallm.formats.text import Record, dumps, json_lines


def parse(lines: Iterable[str], source: str) -> Iterator[Document]:
    """Yield a document a line; a line without `label` (the test set) has no entities."""
    for record in json_lines(lines, source):
        text = record.get("text", str)
        yield record.document(text, _spans(record, text) if "label" in record.value else [], "label")


def render(documents: Iterable[Document]) -> Iterator[str]:
    """Yield one JSON object a document."""
    for document in documents:
        label: dict[str, dict[str, list[list[int]]]] = {}
        for span in document.spans:
            mentions = label.setdefault(span.type, {})
            mentions.setdefault(document.text[span.start : span.end], []).append([span.start, span.end - 1])
        yield dumps({"id": document.id, "text": document.text, "label": label})


def _spans(record: Record, text: str) -> Iterator[Span]:
    for type_, mentions in record.get("label", dict).items():
        if not isinstance(mentions, dict):
            raise record.error("not an object of mentions", f"label.{type_}")
        for mention, places in mentions.items():
            for place in places if isinstance(places, list) else [places]:
                if not (isinstance(place, list) and len(place) == 2 and all(type(n) is int for n in place)):
                    raise record.error("not a [start, end] pair", f"label.{type_}")
                span = Span(place[0], place[1] + 1, type_)
                if text[span.start : span.end] != mention:
                    raise record.error(
                        f"the text from {place[0]} to {place[1]} (inclusive) is not the mention", f"label.{type_}"
                    )
                yield span
