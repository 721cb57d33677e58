"""A text and its entities, in code points, end exclusive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from smallm.errors import DataError
from smallm.labels import LabelSet


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """An entity: code points `start` to `end` of its text, end exclusive, and its type."""

    start: int
    end: int
    type: str


@dataclass(frozen=True, slots=True)
class Document:
    """One text with its annotated entities, ordered and free of overlaps."""

    id: str
    text: str
    spans: tuple[Span, ...] = field(default=())

    def __post_init__(self) -> None:
        previous = 0
        for span in self.spans:
            if not 0 <= span.start < span.end <= len(self.text):
                raise DataError(
                    f"document '{self.id}': span {span.start}-{span.end} lies outside "
                    f"the text of {len(self.text)} characters"
                )
            if span.start < previous:
                raise DataError(f"document '{self.id}': span {span.start}-{span.end} overlaps or precedes another span")
            previous = span.end


def cut_sentences(document: Document, ends: str = "。") -> list[Document]:
    """The document cut after every character of `ends` that stands in no entity; ids get `#` and a number.

    Nothing is lost: the texts joined are the text. A document of one sentence stays as it is.
    """
    inside = {index for span in document.spans for index in range(span.start, span.end)}
    cuts = [i + 1 for i, character in enumerate(document.text) if character in ends and i not in inside]
    borders = [0, *cuts, *([len(document.text)] if not cuts or cuts[-1] < len(document.text) else [])]
    if len(borders) <= 2:
        return [document]
    return [
        Document(
            f"{document.id}#{number}",
            document.text[start:end],
            tuple(Span(s.start - start, s.end - start, s.type) for s in document.spans if start <= s.start < end),
        )
        for number, (start, end) in enumerate(pairwise(borders))
    ]


def label_set(documents: Iterable[Document]) -> LabelSet:
    """The entity types that occur in `documents`, sorted. Raises LabelError if there are none."""
    return LabelSet(tuple(sorted({span.type for document in documents for span in document.spans})))
