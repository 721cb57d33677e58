"""Entity types and BIO tags. Every tagging scheme enters through `to_spans` and leaves as spans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from smallm.errors import LabelError

_BEGIN = frozenset("BS")  # starts a span in BIO, BMES and BIOES
_INSIDE = frozenset("IME")  # continues one
_END = frozenset("ES")  # ends one


@dataclass(frozen=True, slots=True, order=True)
class TagSpan:
    """A typed run of tags: indices `start` to `end`, end exclusive."""

    start: int
    end: int
    type: str


@dataclass(frozen=True)
class LabelSet:
    """An ordered set of T entity types and its N = 2T + 1 BIO tags.

    Tag 0 is O; type k has B at 2k + 1 and I at 2k + 2.
    """

    types: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.types:
            raise LabelError("a label set needs at least one entity type")
        if len(set(self.types)) != len(self.types):
            raise LabelError(f"entity types repeat: {', '.join(self.types)}")

    @property
    def tags(self) -> list[str]:
        """The N tag names in id order."""
        return ["O", *(f"{prefix}-{name}" for name in self.types for prefix in "BI")]

    @property
    def num_tags(self) -> int:
        """N = 2T + 1."""
        return 2 * len(self.types) + 1

    def begin(self, type_: str) -> int:
        """Id of the B tag of `type_`. Raises LabelError for a type outside the set."""
        try:
            return 2 * self.types.index(type_) + 1
        except ValueError:
            raise LabelError(f"unknown entity type '{type_}'; known: {', '.join(self.types)}") from None

    def encode(self, spans: Iterable[TagSpan], length: int) -> list[int]:
        """Spans over `length` positions as BIO tag ids. Raises LabelError if two spans overlap."""
        tags = [0] * length
        for span in spans:
            begin = self.begin(span.type)
            if any(tags[span.start : span.end]):
                raise LabelError(f"span {span.start}-{span.end} ({span.type}) overlaps another span")
            tags[span.start : span.end] = [begin] + [begin + 1] * (span.end - span.start - 1)
        return tags

    def decode(self, tags: Sequence[int]) -> list[TagSpan]:
        """BIO tag ids as spans; an I that continues nothing of its type starts a span."""
        names = self.tags
        return to_spans([names[tag] for tag in tags])

    def legal(self, previous: int | None, following: int) -> bool:
        """Whether tag `following` may come after `previous` (None: at the start of a text)."""
        if following == 0 or following % 2 == 1:
            return True
        return previous in (following, following - 1)


def to_spans(tags: Sequence[str]) -> list[TagSpan]:
    """Read BIO, BMES or BIOES tag names as spans, leniently as `conlleval` does.

    A continuing tag without a start of its own type opens a span. Raises LabelError for a tag
    that is none of `O`, `B- I- M- E- S-` with a type.
    """
    spans: list[TagSpan] = []
    start, current = 0, ""
    for index, tag in enumerate([*tags, "O"]):
        prefix, type_ = split_tag(tag)
        if current and (prefix not in _INSIDE or type_ != current):
            spans.append(TagSpan(start, index, current))
            current = ""
        if prefix != "O" and not current:
            start, current = index, type_
        if prefix in _END:
            spans.append(TagSpan(start, index + 1, type_))
            current = ""
    return spans


def split_tag(tag: str) -> tuple[str, str]:
    """Split `B-TYPE` into its prefix and type; `O` has the empty type."""
    if tag == "O":
        return "O", ""
    prefix, separator, type_ = tag.partition("-")
    if not separator or not type_ or prefix not in _BEGIN | _INSIDE:
        raise LabelError(f"tag '{tag}' is not O or one of B- I- M- E- S- followed by a type")
    return prefix, type_
