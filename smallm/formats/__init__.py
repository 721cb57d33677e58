"""Readers and writers of annotated text. A new format is one module and one line in FORMATS."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from smallm.documents import Document
from smallm.errors import DataError
from smallm.formats import brat, ccks, cluener, conll, docbin, doccano, jsonl, label_studio
from smallm.formats.text import TextFormat


class Format(Protocol):
    """What a format offers."""

    def read(self, path: Path) -> Iterator[Document]:
        """Yield documents; raise DataError naming the file, line and field."""

    def write(self, path: Path, documents: Iterable[Document]) -> None:
        """Write them in one step."""


FORMATS: dict[str, Format] = {
    "jsonl": TextFormat(jsonl.parse, jsonl.render),
    "conll": TextFormat(conll.parse, conll.render),
    "bmes": TextFormat(conll.parse, conll.render_bmes),
    "bioes": TextFormat(conll.parse, conll.render_bioes),
    "ccks2019": TextFormat(ccks.parse_exclusive, ccks.render_exclusive),
    "ccks2020": TextFormat(ccks.parse_inclusive, ccks.render_inclusive),
    "cluener": TextFormat(cluener.parse, cluener.render),
    "doccano": TextFormat(doccano.parse, doccano.render),
    "label-studio": TextFormat(label_studio.parse, label_studio.render),
    "brat": brat.BratFolder(),
    "spacy": docbin.DocBinFile(),
}
SUFFIXES = {
    ".jsonl": "jsonl",
    ".conll": "conll",
    ".bio": "conll",
    ".txt": "conll",
    ".bmes": "bmes",
    ".bioes": "bioes",
    ".spacy": "spacy",
}


def read_documents(path: Path, format: str = "") -> list[Document]:
    """Read every document in `path`; without a `format` (a name in FORMATS) it follows from the suffix.

    Raises DataError if the file is missing, empty, of an unknown format or malformed.
    """
    documents = list(_format(path, format).read(path))
    if not documents:
        raise DataError("the file holds no documents", source=str(path))
    return documents


def read_texts(path: Path) -> list[str]:
    """The texts of a file: the lines of a `.txt` that are not blank, else the documents' texts. Raises DataError."""
    if path.suffix != ".txt":
        return [document.text for document in read_documents(path)]
    try:
        return [line.rstrip("\r") for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as text ({type(error).__name__})", source=str(path)) from None


def write_documents(path: Path, documents: Iterable[Document], format: str = "") -> None:
    """Write `documents` to `path` in one step; see `read_documents` for `format`."""
    _format(path, format).write(path, documents)


def _format(path: Path, name: str) -> Format:
    name = name or SUFFIXES.get(path.suffix, "")
    if name not in FORMATS:
        found = f"'{name}'" if name else f"by the suffix '{path.suffix}'"
        raise DataError(f"unknown format {found}; known: {', '.join(FORMATS)}", source=str(path))
    return FORMATS[name]
