"""Answer sets as files: JSON lines that carry a store to another site, and recordings that fill one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from smallm import atomic
from smallm.errors import DataError, LLMError
from smallm.llm.prompt import Prompt
from smallm.llm.reasons import Reason
from smallm.llm.recordings import read_lines
from smallm.llm.request import RECORDED, ask
from smallm.llm.store import Derived, Record

_RECORD = TypeAdapter(Record)
_KEY = re.compile(r"[0-9a-f]{64}")


def write(path: Path, records: Iterable[Record]) -> int:
    """Write records as JSON lines, the oldest first, in one step; how many.

    A line is a recording too (`text`, `response`): where models answered the same text, the newest counts.
    """
    ordered = sorted(records, key=lambda record: (record.created, record.key))
    with atomic.new_file(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        for record in ordered:
            fields = {name: value for name, value in asdict(record).items() if name not in ("text", "reply")}
            line = {"text": record.text, "response": record.reply, **fields}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    return len(ordered)


def read(path: Path, prompt_path: Path | None = None) -> list[tuple[Record, Derived | None]]:
    """Records with their tags. Lines with a `key` keep it: they answer what the same settings ask elsewhere.

    Other lines, and with `prompt_path` all, are recordings that answer any model's question with that prompt
    (by default `prompt.json` beside them). Raises DataError naming the file, line and field.
    """
    prompt: Prompt | None = None
    entries = []
    for number, line in read_lines(path):
        if "key" in line and prompt_path is None:
            record = _exported(line, str(path), number)
        else:
            prompt = prompt or Prompt.load(prompt_path or path.with_name("prompt.json"))
            record = recorded(prompt, line["text"], line["response"])
        entries.append(with_tags(record))
    return entries


def recorded(prompt: Prompt, text: str, reply: str) -> Record:
    """A reply recorded elsewhere at an unknown time, as the answer to `text` whichever model is asked."""
    request = ask(RECORDED, prompt, text)
    types, model = prompt.type_names, RECORDED
    return Record(request.key, prompt.domain, model.provider, model.name, text, types, reply, created=0.0)


def with_tags(record: Record) -> tuple[Record, Derived | None]:
    """A record with the tags this parser makes of it, or with the reason why it makes none."""
    try:
        return replace(record, outcome=None), replace(record, outcome=None).derive()
    except LLMError as error:
        return replace(record, outcome=record.outcome or Reason(error.reason)), None


def _exported(line: dict[str, Any], source: str, number: int) -> Record:
    fields = {name: value for name, value in line.items() if name != "response"} | {"reply": line["response"]}
    try:
        record: Record = _RECORD.validate_python(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        raise DataError(first["msg"], source=source, line=number, field=field) from None
    if not _KEY.fullmatch(record.key):
        raise DataError("not 64 hexadecimal digits; was the file edited?", source=source, line=number, field="key")
    return record
