"""CCKS evaluation tasks: {"originalText", "entities": [{"label_type", "start_pos", "end_pos", "overlap"}]} a line.

Two dialects under one layout: the clinical records of 2019 count from 0 with the end exclusive, the
military texts of 2020 from 1 with the end inclusive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from smallm.documents import Document, Span
from smallm.formats.text import dumps, json_lines


def parse_exclusive(lines: Iterable[str], source: str) -> Iterator[Document]:
    """Yield the documents of CCKS 2019."""
    return _parse(lines, source, 0)


def parse_inclusive(lines: Iterable[str], source: str) -> Iterator[Document]:
    """Yield the documents of CCKS 2020."""
    return _parse(lines, source, 1)


def render_exclusive(documents: Iterable[Document]) -> Iterator[str]:
    """Yield lines of CCKS 2019."""
    return _render(documents, 0)


def render_inclusive(documents: Iterable[Document]) -> Iterator[str]:
    """Yield lines of CCKS 2020."""
    return _render(documents, 1)


def _parse(lines: Iterable[str], source: str, first: int) -> Iterator[Document]:
    for record in json_lines(lines, source):
        spans = [
            Span(entity.get("start_pos", int) - first, entity.get("end_pos", int), entity.get("label_type", str))
            for entity in record.items("entities")
        ]
        yield record.document(record.get("originalText", str), spans, "entities")


def _render(documents: Iterable[Document], first: int) -> Iterator[str]:
    for document in documents:
        entities = [
            {"label_type": span.type, "overlap": 0, "start_pos": span.start + first, "end_pos": span.end}
            for span in document.spans
        ]
        yield dumps({"id": document.id, "originalText": document.text, "entities": entities})
