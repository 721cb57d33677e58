"""Neutral texts that every bundle carries with its answers: a server that answers otherwise is not what was tested.

They are shipped with this package, so no customer's text is in a bundle on their account. Half of them go with
made-up LLM spans of the domain's types. Kept are those on which all of a bundle's variants agree: rounding on
another processor does not change them, a damaged or wrongly run graph does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smallm.documents import Span
from smallm.fusion import Entity

TEXTS = (
    "好",
    "今天下午三点在二楼会议室开会，请带好材料。",
    "编号A-12的设备运行正常，读数为36.5，无需处理",
    "他从北方来到南方，在河边的小镇住了两年。",
    "The report of 2024 is on page 7，请查收",
    "如果明天下雨，活动改到下周举行；具体时间另行通知，联系人不变，费用照旧。",
)
CLOSE = 0.05  # how far a confidence may be from the recorded one


@dataclass(frozen=True)
class Canary:
    """A text, the LLM's spans if it has some, and what to expect: entities, and the local confidence by variant."""

    text: str
    answer: list[Span] | None
    entities: list[Span]
    confidence: dict[str, float]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Canary:
        """As `to_json` wrote it. Raises KeyError, TypeError or ValueError if it did not."""
        answer = value["answer"]
        return cls(
            str(value["text"]),
            None if answer is None else [Span(*span) for span in answer],
            [Span(*span) for span in value["entities"]],
            {str(name): float(one) for name, one in value["confidence"].items()},
        )

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""

        def plain(spans: Sequence[Span]) -> list[list[Any]]:
            return [[span.start, span.end, span.type] for span in spans]

        answer = None if self.answer is None else plain(self.answer)
        return {"text": self.text, "answer": answer, "entities": plain(self.entities), "confidence": self.confidence}

    def differs(self, variant: str, entities: Sequence[Entity], confidence: float) -> str:
        """What is wrong with an answer of `variant`, in words; '' if nothing."""
        found = [entity.span for entity in entities]
        if found != self.entities:
            missing, more = len(set(self.entities) - set(found)), len(set(found) - set(self.entities))
            return f"{missing} of {len(self.entities)} entities missing, {more} too many"
        expected = self.confidence[variant]
        if not abs(confidence - expected) <= CLOSE:
            return f"confidence {confidence:.3f} instead of {expected:.3f}"
        return ""


def questions(types: Sequence[str]) -> list[tuple[str, list[Span] | None]]:
    """The texts, each without an answer and with spans of `types` at fixed places."""
    asked: list[tuple[str, list[Span] | None]] = []
    for number, text in enumerate(TEXTS):
        starts = range(0, len(text) - 2, 6)
        spans = [Span(at, at + 2, types[(number + at // 6) % len(types)]) for at in starts]
        asked += [(text, None), (text, spans)]
    return asked
