"""doccano exports, one object a line: `label` triples or `entities` with offsets. Writes the latter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from smallm.documents import Document, Span
from smallm.formats.text import Record, dumps, json_lines


def parse(lines: Iterable[str], source: str) -> Iterator[Document]:
    """Yield a document a line; the text is in `text` or, in older exports, in `data`."""
    for record in json_lines(lines, source):
        text = record.get("data" if "data" in record.value and "text" not in record.value else "text", str)
        field = next((name for name in ("entities", "label", "labels") if name in record.value), "entities")
        spans = _objects(record) if field == "entities" else _triples(record, field)
        yield record.document(text, list(spans), field)


def render(documents: Iterable[Document]) -> Iterator[str]:
    """Yield one JSON object a document."""
    for document in documents:
        entities = [
            {"id": number, "label": span.type, "start_offset": span.start, "end_offset": span.end}
            for number, span in enumerate(document.spans)
        ]
        yield dumps({"id": document.id, "text": document.text, "entities": entities, "relations": []})


def _objects(record: Record) -> Iterator[Span]:
    for entity in record.items("entities"):
        yield Span(entity.get("start_offset", int), entity.get("end_offset", int), entity.get("label", str))


def _triples(record: Record, field: str) -> Iterator[Span]:
    for index, triple in enumerate(record.get(field, list)):
        match triple:
            case [int(start), int(end), str(type_)]:
                yield Span(start, end, type_)
            case _:
                raise record.error("not a [start, end, label] triple", f"{field}[{index}]")
