"""brat standoff: a folder with ID.txt and ID.ann beside each other, `T1<TAB>TYPE START END<TAB>MENTION`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from smallm import atomic
from smallm.documents import Document, Span
from smallm.errors import DataError
from smallm.formats.text import read_text

_ENTITY = re.compile(r"(T\S+)\t(\S+) (\d+) (\d+)\t(.*)")


class BratFolder:
    """See `smallm.formats.Format`."""

    def read(self, path: Path) -> Iterator[Document]:
        """Yield a document for every .txt in the folder; lines other than T (relations, notes) are skipped.

        Raises DataError for a discontinuous entity, or one whose text is not its slice.
        """
        if not path.is_dir():
            raise DataError("no such folder of .txt and .ann files", source=str(path))
        for file in sorted(path.glob("*.txt")):
            text = read_text(file)
            annotations = file.with_suffix(".ann")
            spans = list(_spans(annotations, text)) if annotations.is_file() else []
            try:
                yield Document(file.stem, text, tuple(sorted(spans)))
            except DataError as error:
                raise DataError(str(error), source=str(annotations)) from None

    def write(self, path: Path, documents: Iterable[Document]) -> None:
        """Write the whole folder in one step. Raises DataError for ids that are no file names, or repeat."""
        with atomic.new_directory(path) as folder:
            for document in documents:
                text = folder / f"{document.id}.txt"
                if not re.fullmatch(r"[\w#+.=-]{1,200}", document.id) or text.exists():
                    raise DataError(f"document id '{document.id}' is no file name, or repeats", source=str(path))
                text.write_bytes(document.text.encode())
                lines = [
                    f"T{number}\t{span.type} {span.start} {span.end}\t{_flat(document.text[span.start : span.end])}\n"
                    for number, span in enumerate(document.spans, start=1)
                ]
                text.with_suffix(".ann").write_bytes("".join(lines).encode())


def _spans(file: Path, text: str) -> Iterator[Span]:
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.startswith("T"):
            continue
        found = _ENTITY.fullmatch(line)
        if found is None:
            message = "not 'T1<TAB>TYPE START END<TAB>MENTION' (discontinuous entities are not supported)"
            raise DataError(message, source=str(file), line=number)
        span = Span(int(found[3]), int(found[4]), found[2])
        if _flat(text[span.start : span.end]) != found[5]:
            raise DataError(f"{found[1]}: its mention is not the text's slice", source=str(file), line=number)
        yield span


def _flat(mention: str) -> str:
    return mention.replace("\n", " ")
