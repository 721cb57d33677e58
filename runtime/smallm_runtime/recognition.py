"""One text to its answer: what is valid, who answers, what is said about it. Every service on offer goes through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from smallm import bundle
from smallm.errors import InvalidRequestError, TooLargeError
from smallm.fusion import Entity, Source
from smallm.llm.bridge import Answer, Bridge, Status
from smallm.llm.settings import Mode
from smallm.ner.v1 import ner_pb2
from smallm.offsets import OffsetUnit, convert
from smallm_runtime.batcher import Outcome
from smallm_runtime.engine import Item
from smallm_runtime.settings import Limits
from smallm_runtime.turns import Turns
from smallm_runtime.versions import Version

_MODES = {
    ner_pb2.LLM_MODE_OFF: Mode.OFF,
    ner_pb2.LLM_MODE_CACHED_ONLY: Mode.CACHED_ONLY,
    ner_pb2.LLM_MODE_WAIT: Mode.WAIT,
    ner_pb2.LLM_MODE_BACKGROUND: Mode.BACKGROUND,
    ner_pb2.LLM_MODE_WHEN_UNCERTAIN: Mode.WHEN_UNCERTAIN,
}
_UNITS = {
    ner_pb2.OFFSET_UNIT_UNSPECIFIED: (OffsetUnit.CODE_POINTS, ner_pb2.OFFSET_UNIT_CODE_POINTS),
    ner_pb2.OFFSET_UNIT_CODE_POINTS: (OffsetUnit.CODE_POINTS, ner_pb2.OFFSET_UNIT_CODE_POINTS),
    ner_pb2.OFFSET_UNIT_UTF16_CODE_UNITS: (OffsetUnit.UTF16_CODE_UNITS, ner_pb2.OFFSET_UNIT_UTF16_CODE_UNITS),
    ner_pb2.OFFSET_UNIT_UTF8_BYTES: (OffsetUnit.UTF8_BYTES, ner_pb2.OFFSET_UNIT_UTF8_BYTES),
}

# Looked up once: an enum's name costs as much as an entity's other fields together.
_SOURCES = {source: ner_pb2.EntitySource.Value(f"ENTITY_SOURCE_{source.name}") for source in Source}
_STATUSES = {status: ner_pb2.LlmStatus.Value(f"LLM_STATUS_{status.name}") for status in Status}


class Recognition:
    """Belongs to one event loop."""

    def __init__(
        self, bridge: Bridge, limits: Limits, observe: Callable[[ner_pb2.Timings], None] = lambda timings: None
    ) -> None:
        """`observe` is told of every answer where its time went."""
        self._bridge, self.limits, self._observe, self._turns = bridge, limits, observe, Turns()

    async def recognize(
        self,
        version: Version,
        request: ner_pb2.RecognizeRequest,
        path: str,
        remaining_s: float | None,
        bulk: object | None = None,
    ) -> ner_pb2.RecognizeResponse:
        """The answer of `version`. Raises RequestError; fields are named below `path`.

        `remaining_s` is what is left of the caller's deadline, None without one. `bulk` is the call that has many
        texts: it takes turns with others of its kind.
        """
        begin = time.perf_counter()
        mode, (unit, told_unit) = self._checked(request, path)
        domain = version.engine.domain(request.domain)
        local: Outcome | None = None  # at hand if the bridge had to know how certain the local model is

        def left_s() -> float | None:
            return None if remaining_s is None else remaining_s - (time.perf_counter() - begin)

        async def submit(item: Item) -> Outcome:
            if bulk is None:
                return await version.batcher.submit(item, left_s())
            async with self._turns.take(bulk):
                return await version.batcher.submit(item, left_s())

        async def confidence() -> float:
            nonlocal local
            local = await submit(Item(request.text, domain))
            return local.recognized.confidence

        prompt, llm_s = version.engine.prompt(domain), self._llm_may_take(remaining_s)
        answer = await self._bridge.answer(prompt, request.text, mode, llm_s, confidence)
        answered = time.perf_counter()
        outcome = local
        if outcome is None or answer.spans is not None:
            outcome = await submit(Item(request.text, domain, answer.spans))
        kept = [entity for entity in outcome.recognized.entities if entity.score >= request.min_score]
        timings = _timings(begin, answered, outcome)
        self._observe(timings)
        return ner_pb2.RecognizeResponse(
            entities=_entities(kept, request.text, unit),
            llm=_llm_part(answer, local.recognized.confidence if local else None),
            timings=timings,
            domain=domain,
            provenance=_provenance(version, domain),
            offset_unit=told_unit,
        )

    def check_batch(self, count: int, lengths: Iterable[int], path: str) -> None:
        """Raises TooLargeError if `count` texts of these lengths, in field `path`, are too much for one call."""
        if count > self.limits.batch_items:
            raise TooLargeError(path, f"{count} texts; at most {self.limits.batch_items} a call")
        total = sum(lengths)
        if total > self.limits.batch_text:
            raise TooLargeError(path, f"{total} characters in all; at most {self.limits.batch_text} a call")

    def _llm_may_take(self, remaining_s: float | None) -> float | None:
        """Seconds; the local model needs the rest."""
        return None if remaining_s is None else max(0.0, remaining_s - self._bridge.settings.reserve_s)

    def _checked(
        self, request: ner_pb2.RecognizeRequest, path: str
    ) -> tuple[Mode, tuple[OffsetUnit, ner_pb2.OffsetUnit.ValueType]]:
        if len(request.text) > self.limits.text:
            raise TooLargeError(f"{path}text", f"{len(request.text)} characters; at most {self.limits.text}")
        if not 0.0 <= request.min_score <= 1.0:  # not a number lies nowhere
            raise InvalidRequestError(f"{path}min_score", "must lie between 0 and 1")
        if request.domain and not bundle.DOMAIN_NAME.fullmatch(request.domain):
            raise InvalidRequestError(f"{path}domain", "no domain is called so; ListDomains has the names")
        if request.offset_unit not in _UNITS:
            raise InvalidRequestError(f"{path}offset_unit", f"unknown value {request.offset_unit}")
        if request.llm_mode == ner_pb2.LLM_MODE_UNSPECIFIED:
            return self._bridge.settings.mode, _UNITS[request.offset_unit]
        if request.llm_mode not in _MODES:
            raise InvalidRequestError(f"{path}llm_mode", f"unknown value {request.llm_mode}")
        return _MODES[request.llm_mode], _UNITS[request.offset_unit]


def _entities(entities: list[Entity], text: str, unit: OffsetUnit) -> list[ner_pb2.Entity]:
    borders = [border for entity in entities for border in (entity.span.start, entity.span.end)]
    told = iter(convert(text, borders, unit))
    return [
        ner_pb2.Entity(
            start=next(told),
            end=next(told),
            type=entity.span.type,
            text=text[entity.span.start : entity.span.end],
            score=entity.score,
            source=_SOURCES[entity.source],
        )
        for entity in entities
    ]


def _llm_part(answer: Answer, confidence: float | None) -> ner_pb2.LlmPart:
    part = ner_pb2.LlmPart(status=_STATUSES[answer.status], reason=answer.reason or "", local_confidence=confidence)
    if answer.answered:
        part.answered_at.FromMilliseconds(int(1000 * answer.answered))
    return part


def _provenance(version: Version, domain: str) -> ner_pb2.Provenance:
    manifest, variant = version.engine.manifest, version.engine.variant
    head = manifest.files[manifest.graphs(domain, variant)[1]]["sha256"]
    return ner_pb2.Provenance(bundle_sha256=version.fingerprint, head_sha256=head, variant=variant)


def _timings(begin: float, answered: float, outcome: Outcome) -> ner_pb2.Timings:
    return ner_pb2.Timings(
        total_us=_microseconds(time.perf_counter() - begin),
        llm_us=_microseconds(answered - begin),
        queue_us=_microseconds(outcome.queue_s),
        model_us=_microseconds(outcome.model_s),
        batch_size=outcome.batch_size,
    )


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6)
