"""One JSON object a line: {"id", "text", "entities": [{"start", "end", "type", "text"}]}."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from smallm.documents import Document, Span
from smallm.errors import DataError


def parse(lines: Iterable[str], source: str) -> Iterator[Document]:
    """Yield a document a line; `id` defaults to the line number, `entities` to none."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _document(line, source, number)


def render(documents: Iterable[Document]) -> Iterator[str]:
    """Yield one JSON object a document."""
    for document in documents:
        entities = [
            {"start": span.start, "end": span.end, "type": span.type, "text": document.text[span.start : span.end]}
            for span in document.spans
        ]
        yield json.dumps({"id": document.id, "text": document.text, "entities": entities}, ensure_ascii=False)


def _document(line: str, source: str, number: int) -> Document:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON ({error.msg} at column {error.colno})", source=source, line=number) from None
    if not isinstance(record, dict):
        raise DataError("expected a JSON object", source=source, line=number)
    text = record.get("text")
    if not isinstance(text, str):
        raise DataError("missing or not a string", source=source, line=number, field="text")
    entities = record.get("entities", [])
    if not isinstance(entities, list):
        raise DataError("not a list", source=source, line=number, field="entities")
    spans = [_span(entity, text, source, number, f"entities[{index}]") for index, entity in enumerate(entities)]
    try:
        return Document(str(record.get("id", number)), text, tuple(sorted(spans)))
    except DataError as error:
        raise DataError(str(error), source=source, line=number, field="entities") from None


def _span(entity: Any, text: str, source: str, number: int, field: str) -> Span:
    if not isinstance(entity, dict):
        raise DataError("not an object", source=source, line=number, field=field)
    start, end, type_ = entity.get("start"), entity.get("end"), entity.get("type")
    for name, value, kind in (("start", start, int), ("end", end, int), ("type", type_, str)):
        if not isinstance(value, kind) or isinstance(value, bool):
            raise DataError(f"missing or not {kind.__name__}", source=source, line=number, field=f"{field}.{name}")
    assert isinstance(start, int) and isinstance(end, int) and isinstance(type_, str)
    stated = entity.get("text")
    if stated is not None and stated != text[start:end]:
        raise DataError(
            f"the slice {start}:{end} of the text does not equal the entity's text; "
            "offsets are code points from 0, end exclusive",
            source=source,
            line=number,
            field=f"{field}.text",
        )
    return Span(start, end, type_)
