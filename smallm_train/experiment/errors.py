"""What kind of mistakes: the paper's six scenarios, nervaluate's view of them, and tokens rescued or harmed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nervaluate.evaluator import Evaluator

from smallm.documents import Document, Span
from smallm.errors import LLMError
from smallm.llm.align import align
from smallm.llm.parse import parse_reply
from smallm.llm.recordings import RecordedAnswers

Texts = Sequence[Sequence[Span]]


class Scenario(StrEnum):
    """What one prediction is (Yang et al. 2025). The fabricated ones only an LLM can make."""

    FABRICATED_SPAN = "fabricated span"
    FABRICATED_TYPE = "fabricated type"
    OVERLAPPING = "overlapping boundary, right type"
    WRONG_TYPE = "right boundary, wrong type"
    OTHER = "other"
    CORRECT = "correct"


def scenario(span: Span, gold: Sequence[Span]) -> Scenario:
    """The scenario of one prediction that lies in the text and has a known type."""
    if span in gold:
        return Scenario.CORRECT
    if any((span.start, span.end) == (other.start, other.end) for other in gold):
        return Scenario.WRONG_TYPE
    if any(span.type == other.type and span.start < other.end and other.start < span.end for other in gold):
        return Scenario.OVERLAPPING
    return Scenario.OTHER


def scenarios(gold: Texts, predicted: Texts) -> Counter[Scenario]:
    """How many predictions fall into each scenario; every prediction into one."""
    return Counter(scenario(span, expected) for expected, found in zip(gold, predicted, strict=True) for span in found)


def fabrications(documents: Sequence[Document], recorded: RecordedAnswers) -> Counter[Scenario]:
    """What the LLM's raw replies claim beyond what `align` could place in the text.

    A mention that the text holds, but not as often as it was answered, is OTHER.
    """
    types = set(recorded.prompt.type_names)
    found: Counter[Scenario] = Counter()
    for document in documents:
        reply = recorded.replies.get(document.text)
        if reply is None or recorded.prompt.is_demonstration(document.text):
            continue
        try:
            mentions = parse_reply(reply)
        except LLMError:
            continue
        strange = sum(mention.type not in types for mention in mentions)
        invented = sum(mention.type in types and mention.text not in document.text for mention in mentions)
        found[Scenario.FABRICATED_TYPE] += strange
        found[Scenario.FABRICATED_SPAN] += invented
        found[Scenario.OTHER] += len(mentions) - strange - invented - len(align(mentions, document.text, types))
    return found


@dataclass(frozen=True)
class Matching:
    """F1 under nervaluate's four ways to match, as fractions, and strict missed and spurious entities."""

    strict: float
    exact: float
    partial: float
    type: float
    missed: int
    spurious: int


def matching(gold: Texts, predicted: Texts) -> Matching:
    """nervaluate's breakdown: boundary and type, boundary, overlapping boundary, type of what overlaps."""
    types = sorted({span.type for texts in (gold, predicted) for spans in texts for span in spans})
    if not types:
        return Matching(0.0, 0.0, 0.0, 0.0, 0, 0)
    evaluator = Evaluator(_plain(gold), _plain(predicted), tags=types, loader="dict")
    overall: dict[str, Any] = evaluator.evaluate()["overall"]
    strict, exact, partial, type_ = (float(overall[name].f1) for name in ("strict", "exact", "partial", "ent_type"))
    return Matching(strict, exact, partial, type_, int(overall["strict"].missed), int(overall["strict"].spurious))


@dataclass(frozen=True)
class Rescue:
    """Tokens that changed between two systems: wrong to right, right to wrong; and how many there are."""

    rescued: int
    harmed: int
    tokens: int


def rescued_and_harmed(documents: Sequence[Document], before: Texts, after: Texts) -> Rescue:
    """Compare two systems' BIO tags token by token. A token is a character that is not white space."""
    rescued = harmed = tokens = 0
    for document, first, second in zip(documents, before, after, strict=True):
        for character, gold, old, new in zip(
            document.text, *(_tags(spans, len(document.text)) for spans in (document.spans, first, second)), strict=True
        ):
            if not character.isspace():
                tokens += 1
                rescued += old != gold and new == gold
                harmed += old == gold and new != gold
    return Rescue(rescued, harmed, tokens)


def _tags(spans: Sequence[Span], length: int) -> list[tuple[str, bool]]:
    """The type of each character ("" outside) and whether it begins an entity."""
    tags = [("", False)] * length
    for span in spans:
        tags[span.start : span.end] = [(span.type, place == span.start) for place in range(span.start, span.end)]
    return tags


def _plain(texts: Texts) -> list[list[dict[str, object]]]:
    """nervaluate's dictionaries; its ends are inclusive."""

    def entities(spans: Sequence[Span]) -> Iterator[dict[str, object]]:
        for span in spans:
            yield {"label": span.type, "start": span.start, "end": span.end - 1}

    return [list(entities(spans)) for spans in texts]
