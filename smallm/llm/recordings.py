"""Recorded LLM answers: one JSON object a line with at least `text` and `response` (the raw reply)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallm.documents import Span
from smallm.errors import DataError, LLMError
from smallm.llm.prompt import Prompt
from smallm.llm.reading import read_reply


@dataclass(frozen=True)
class RecordedAnswers:
    """Raw replies by text, and the prompt they answer."""

    prompt: Prompt
    replies: dict[str, str]

    def spans(self, texts: Sequence[str]) -> list[list[Span] | None]:
        """The LLM's spans for each text; None where it is absent: not recorded, unparsable or a demonstration."""
        return [
            None
            if text not in self.replies or self.prompt.is_demonstration(text)
            else answered_spans(self.replies[text], text, self.prompt.type_names)
            for text in texts
        ]


def read_answers(path: Path, prompt_path: Path | None = None, fallback: Prompt | None = None) -> RecordedAnswers:
    """Read recordings and their prompt: `prompt_path`, else `prompt.json` beside them, else `fallback`.

    Raises DataError naming the file, line and field.
    """
    replies = read_replies(path)
    beside = path.with_name("prompt.json")
    if prompt_path is None and not beside.is_file() and fallback is not None:
        return RecordedAnswers(fallback, replies)
    return RecordedAnswers(Prompt.load(prompt_path or beside), replies)


def read_replies(path: Path) -> dict[str, str]:
    """Raw replies by text; the last line of a text counts. Raises DataError naming the file, line and field."""
    return {line["text"]: line["response"] for _, line in read_lines(path)}


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a recording with their line numbers, `text` and `response` checked. Raises DataError."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: U+2028 may stand in a reply
    except FileNotFoundError:
        raise DataError("no such file", source=str(path)) from None
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start}", source=str(path)) from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"not valid JSON ({error.msg})", source=str(path), line=number) from None
        for field in ("text", "response"):
            if not isinstance(record, dict) or not isinstance(record.get(field), str):
                raise DataError("missing or not a string", source=str(path), line=number, field=field)
        yield number, record


def answered_spans(reply: str, text: str, types: Sequence[str]) -> list[Span] | None:
    """The spans of one raw reply; None if it cannot be parsed."""
    try:
        return read_reply(reply, text, types)
    except LLMError:
        return None
