"""Our own: one JSON object a line, {"id", "text", "entities": [{"start", "end", "type", "text"}]}."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from smallm.documents import Document, Span
from smallm.formats.text import Record, dumps, json_lines


def parse(lines: Iterable[str], source: str) -> Iterator[Document]:
    """Yield a document a line; `id` defaults to the line number, `entities` to none."""
    for record in json_lines(lines, source):
        text = record.get("text", str)
        yield record.document(text, [_span(entity, text) for entity in record.items("entities")], "entities")


def render(documents: Iterable[Document]) -> Iterator[str]:
    """Yield one JSON object a document."""
    for document in documents:
        entities = [
            {"start": span.start, "end": span.end, "type": span.type, "text": document.text[span.start : span.end]}
            for span in document.spans
        ]
        yield dumps({"id": document.id, "text": document.text, "entities": entities})


def _span(entity: Record, text: str) -> Span:
    span = Span(entity.get("start", int), entity.get("end", int), entity.get("type", str))
    stated = entity.value.get("text")
    if stated is not None and stated != text[span.start : span.end]:
        raise entity.error(
            f"the slice {span.start}:{span.end} of the text does not equal the entity's text; "
            "offsets are code points from 0, end exclusive",
            "text",
        )
    return span
