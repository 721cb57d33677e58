"""Two columns, character and tag, separated by white space; a blank line ends a sentence.

Reads BIO, BMES and BIOES alike; writes any of them. A token of several characters carries one tag for all of
them. A line of the tag alone (the character was a space and its separator was squeezed) stands
for a space.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from smallm.documents import Document, Span
from smallm.errors import DataError, LabelError
from smallm.labels import split_tag, to_spans


def parse(lines: Iterable[str], source: str) -> Iterator[Document]:
    """Yield one document a sentence, numbered from 1."""
    sentence: list[tuple[str, str]] = []
    count = 0
    for number, line in enumerate(lines, start=1):
        if line.startswith("-DOCSTART-"):
            continue
        if not line.strip():
            if sentence:
                count += 1
                yield _document(str(count), sentence)
            sentence = []
            continue
        sentence.append(_row(line, source, number))
    if sentence:
        yield _document(str(count + 1), sentence)


def render(documents: Iterable[Document]) -> Iterator[str]:
    """Yield `character<TAB>tag` lines in BIO and a blank line after each document."""
    return _render(documents, "BII", "B")


def render_bmes(documents: Iterable[Document]) -> Iterator[str]:
    """The same in BMES."""
    return _render(documents, "BME", "S")


def render_bioes(documents: Iterable[Document]) -> Iterator[str]:
    """The same in BIOES."""
    return _render(documents, "BIE", "S")


def _render(documents: Iterable[Document], scheme: str, single: str) -> Iterator[str]:
    begin, inside, end = scheme[0], scheme[1], scheme[2]
    for document in documents:
        tags = ["O"] * len(document.text)
        for span in document.spans:
            length = span.end - span.start
            prefixes = begin + inside * (length - 2) + end if length > 1 else single
            tags[span.start : span.end] = [f"{prefix}-{span.type}" for prefix in prefixes]
        yield from (f"{character}\t{tag}" for character, tag in zip(document.text, tags, strict=True))
        yield ""


def _row(line: str, source: str, number: int) -> tuple[str, str]:
    if line[0].isspace() and len(line.split()) == 1:
        token, tag = line[0], line.strip()
    else:
        columns = line.split()
        if len(columns) < 2:
            raise DataError("expected a character and a tag", source=source, line=number)
        token, tag = columns[0], columns[-1]
    try:
        split_tag(tag)
    except LabelError as error:
        raise DataError(str(error), source=source, line=number, field="tag") from None
    return token, tag


def _document(id_: str, rows: list[tuple[str, str]]) -> Document:
    starts = [0]
    for token, _ in rows:
        starts.append(starts[-1] + len(token))
    spans = (Span(starts[span.start], starts[span.end], span.type) for span in to_spans([tag for _, tag in rows]))
    return Document(id_, "".join(token for token, _ in rows), tuple(spans))
