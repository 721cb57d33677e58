"""What formats in one text file share: lines in, lines out, and JSON fields checked with their place named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallm import atomic
from smallm.documents import Document, Span
from smallm.errors import DataError

Parse = Callable[[Iterable[str], str], Iterator[Document]]
"""Lines without line ends, and the file's name for errors, to documents."""
Render = Callable[[Iterable[Document]], Iterator[str]]


@dataclass(frozen=True)
class TextFormat:
    """A UTF-8 file of lines; see `smallm.formats.Format`."""

    parse: Parse
    render: Render

    def read(self, path: Path) -> Iterator[Document]:
        """Yield documents."""
        yield from self.parse(read_text(path).split("\n"), str(path))

    def write(self, path: Path, documents: Iterable[Document]) -> None:
        """Write them in one step."""
        atomic.write_text(path, "".join(line + "\n" for line in self.render(documents)))


def read_text(path: Path) -> str:
    """A file's text with Windows line ends made plain. Raises DataError if it is missing or not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except (FileNotFoundError, IsADirectoryError):
        raise DataError("no such file", source=str(path)) from None
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start}; convert the file first", source=str(path)) from None


@dataclass(frozen=True)
class Record:
    """A JSON object and where it stands, for errors that name file, line and field."""

    value: dict[str, Any]
    source: str
    line: int
    path: str = ""

    def error(self, message: str, field: str = "") -> DataError:
        """A DataError at this place."""
        return DataError(message, source=self.source, line=self.line, field=self._field(field))

    def get(self, field: str, kind: type) -> Any:
        """A field that must be there and of `kind`."""
        value = self.value.get(field)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.error(f"missing or not {_KINDS.get(kind, kind.__name__)}", field)
        return value

    def items(self, field: str) -> Iterator[Record]:
        """The objects of a list field; none if it is missing."""
        values = self.value.get(field, [])
        if not isinstance(values, list):
            raise self.error("not a list", field)
        for index, value in enumerate(values):
            place = f"{self._field(field)}[{index}]"
            if not isinstance(value, dict):
                raise DataError("not an object", source=self.source, line=self.line, field=place)
            yield Record(value, self.source, self.line, place)

    def document(self, text: str, spans: Iterable[Span], field: str) -> Document:
        """A document named by the record's `id` or line; spans in any order."""
        try:
            return Document(str(self.value.get("id", self.line)), text, tuple(sorted(spans)))
        except DataError as error:
            raise self.error(str(error), field) from None

    def _field(self, field: str) -> str:
        return ".".join(part for part in (self.path, field) if part)


_KINDS = {str: "a string", int: "an integer", list: "a list", dict: "an object"}


def json_lines(lines: Iterable[str], source: str) -> Iterator[Record]:
    """The JSON objects of a file with one a line. Raises DataError naming the line."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            message = f"not valid JSON ({error.msg} at column {error.colno})"
            raise DataError(message, source=source, line=number) from None
        if not isinstance(value, dict):
            raise DataError("expected a JSON object", source=source, line=number)
        yield Record(value, source, number)


def dumps(value: Any) -> str:
    """One line of JSON, characters as they are."""
    return json.dumps(value, ensure_ascii=False)
