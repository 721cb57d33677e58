"""Label Studio's JSON export: a list of tasks with `data` and `annotations`. The first finished annotation counts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from smallm.documents import Document, Span
from smallm.errors import DataError
from smallm.formats.text import Record, dumps


def parse(lines: Iterable[str], source: str) -> Iterator[Document]:
    """Yield a document a task; the text is the only string in `data`, or the one called `text`.

    Raises DataError for an export without the text (JSON_MIN lacks it for some projects).
    """
    try:
        tasks = json.loads("\n".join(lines))
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON ({error.msg})", source=source, line=error.lineno) from None
    for record in Record({"tasks": tasks if isinstance(tasks, list) else [tasks]}, source, 0).items("tasks"):
        text = _text(record)
        finished = [one for one in record.items("annotations") if not one.value.get("was_cancelled")]
        yield record.document(text, list(_spans(finished[0])) if finished else [], "annotations")


def render(documents: Iterable[Document]) -> Iterator[str]:
    """Yield the lines of one JSON list."""
    tasks = [dumps(_task(document)) for document in documents]
    yield "["
    yield from (task + ("," if index < len(tasks) - 1 else "") for index, task in enumerate(tasks))
    yield "]"


def _text(record: Record) -> str:
    data = record.get("data", dict)
    strings = [value for value in data.values() if isinstance(value, str)]
    if isinstance(data.get("text"), str):
        return str(data["text"])
    if len(strings) != 1:
        raise record.error("no 'text', and not exactly one string to take for it; export as JSON with data", "data")
    return strings[0]


def _spans(annotation: Record) -> Iterator[Span]:
    for result in annotation.items("result"):
        if result.value.get("type") != "labels":
            continue
        value = Record(result.get("value", dict), result.source, result.line, f"{result.path}.value")
        names = value.get("labels", list)
        if len(names) != 1 or not isinstance(names[0], str):
            raise value.error("not exactly one label", "labels")
        yield Span(value.get("start", int), value.get("end", int), names[0])


def _task(document: Document) -> dict[str, object]:
    results = [
        {
            "id": str(number),
            "type": "labels",
            "from_name": "label",
            "to_name": "text",
            "value": {
                "start": span.start,
                "end": span.end,
                "text": document.text[span.start : span.end],
                "labels": [span.type],
            },
        }
        for number, span in enumerate(document.spans)
    ]
    return {"id": document.id, "data": {"text": document.text}, "annotations": [{"result": results}]}
