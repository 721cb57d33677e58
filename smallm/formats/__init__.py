"""Readers and writers of annotated text. A new format is one module and one line in FORMATS."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from smallm import atomic
from smallm.documents import Document
from smallm.errors import DataError
from smallm.formats import conll, jsonl


class Format(Protocol):
    """What a format module offers."""

    def parse(self, lines: Iterable[str], source: str) -> Iterator[Document]:
        """Yield documents; raise DataError naming `source`, line and field."""

    def render(self, documents: Iterable[Document]) -> Iterator[str]:
        """Yield the lines of the file, without line ends."""


FORMATS: dict[str, Format] = {".jsonl": jsonl, ".conll": conll, ".bio": conll, ".txt": conll}


def read_documents(path: Path) -> list[Document]:
    """Read every document in `path`; the format follows from the suffix.

    Raises DataError if the file is missing, empty, of an unknown format or malformed.
    """
    parse = _format(path).parse
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            documents = list(parse((line.rstrip("\r\n") for line in handle), str(path)))
    except FileNotFoundError:
        raise DataError("no such file", source=str(path)) from None
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start}; convert the file first", source=str(path)) from None
    if not documents:
        raise DataError("the file holds no documents", source=str(path))
    return documents


def write_documents(path: Path, documents: Iterable[Document]) -> None:
    """Write `documents` to `path` in one step; the format follows from the suffix."""
    lines = _format(path).render(documents)
    atomic.write_text(path, "".join(line + "\n" for line in lines))


def _format(path: Path) -> Format:
    try:
        return FORMATS[path.suffix]
    except KeyError:
        raise DataError(f"unknown format '{path.suffix}'; known: {', '.join(FORMATS)}", source=str(path)) from None
