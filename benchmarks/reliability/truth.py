"""Whether answers were right: each is computed again, in this process, from the bundle that it names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smallm_runtime.engine import Engine, Item
from smallm_runtime.loading import fingerprint
from traffic import Record

from smallm.documents import Span
from smallm.fusion import Entity
from smallm.llm.reading import read_reply
from smallm.ner.v1 import ner_pb2
from tests.fake_llm import rule

CHUNK = 64
TOLERANCE = 2e-3  # of scores; spans and types must be equal


class Truth:
    """Right answers by bundle. An LLM's answer may have been that of `rule`, or one of `lies` while it lied."""

    def __init__(self, bundles: Sequence[Path], lies: Sequence[str] = ()) -> None:
        self._engines = {fingerprint(folder): Engine.load(folder) for folder in bundles}
        self._lies = lies

    def wrong(self, records: Sequence[Record]) -> list[Record]:
        """Those that were answered, but not as the bundle answers."""
        wrong: list[Record] = []
        for sha256, engine in self._engines.items():
            answered = [one for one in records if one.response and _bundle(one.response) == sha256]
            for first in range(0, len(answered), CHUNK):
                wrong += self._wrong(engine, answered[first : first + CHUNK])
        strange = [one for one in records if one.response and _bundle(one.response) not in self._engines]
        return wrong + strange

    def _wrong(self, engine: Engine, records: list[Record]) -> list[Record]:
        left = records
        for reply in (None, *self._lies):
            local = [_llm(one) == ner_pb2.LLM_STATUS_ABSENT for one in left]
            items = [
                Item(one.text, answer=None if absent else _spans(engine, one.text, reply))
                for one, absent in zip(left, local, strict=True)
            ]
            right = engine.recognize(items) if items else []
            left = [one for one, entities in zip(left, right, strict=True) if not _same(one, entities)]
        return left


def _spans(engine: Engine, text: str, reply: str | None) -> list[Span]:
    return read_reply(rule(text) if reply is None else reply, text, tuple(engine.types("")))


def _same(record: Record, entities: Sequence[Entity]) -> bool:
    assert record.response is not None
    found = record.response.entities
    return len(found) == len(entities) and all(
        (one.start, one.end, one.type) == (other.span.start, other.span.end, other.span.type)
        and one.text == record.text[one.start : one.end]
        and abs(one.score - other.score) < TOLERANCE
        for one, other in zip(found, entities, strict=True)
    )


def _llm(record: Record) -> int:
    assert record.response is not None
    return record.response.llm.status


def _bundle(response: ner_pb2.RecognizeResponse) -> str:
    return response.provenance.bundle_sha256
