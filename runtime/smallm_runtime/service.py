"""The gRPC service: messages in and out, nothing else decided here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from smallm.errors import InvalidRequestError, SmallmError
from smallm.fusion import Entity
from smallm.llm.bridge import Answer, Bridge
from smallm.llm.settings import Mode
from smallm.ner.v1 import ner_pb2, ner_pb2_grpc
from smallm_runtime.batcher import Outcome
from smallm_runtime.engine import Item
from smallm_runtime.status import to_status
from smallm_runtime.versions import Version, Versions, asked_version

MAX_TEXT = 20_000  # code points
MAX_BATCH = 256  # items of one BatchRecognize
IN_FLIGHT = 64  # items of one stream being worked on
_MODES = {
    ner_pb2.LLM_MODE_OFF: Mode.OFF,
    ner_pb2.LLM_MODE_CACHED_ONLY: Mode.CACHED_ONLY,
    ner_pb2.LLM_MODE_WAIT: Mode.WAIT,
    ner_pb2.LLM_MODE_BACKGROUND: Mode.BACKGROUND,
    ner_pb2.LLM_MODE_WHEN_UNCERTAIN: Mode.WHEN_UNCERTAIN,
}


class NerService(ner_pb2_grpc.NerServiceServicer):
    """See proto/smallm/ner/v1/ner.proto."""

    def __init__(self, versions: Versions, bridge: Bridge) -> None:
        self._versions, self._bridge = versions, bridge

    async def Recognize(self, request: ner_pb2.RecognizeRequest, context: Any) -> ner_pb2.RecognizeResponse:  # noqa: N802
        """One text."""
        with self._versions.use(asked_version(context)) as version:
            return await self._recognize(version, request, "", context)

    async def BatchRecognize(  # noqa: N802
        self, request: ner_pb2.BatchRecognizeRequest, context: Any
    ) -> ner_pb2.BatchRecognizeResponse:
        """Several texts, each with its own fate."""
        if len(request.items) > MAX_BATCH:
            raise InvalidRequestError("items", f"{len(request.items)} items; at most {MAX_BATCH} a call")
        with self._versions.use(asked_version(context)) as version:
            items = (self._item(version, item, f"items[{index}].", context) for index, item in enumerate(request.items))
            return ner_pb2.BatchRecognizeResponse(items=await asyncio.gather(*items))

    async def StreamRecognize(  # noqa: N802
        self, requests: AsyncIterator[ner_pb2.StreamRecognizeRequest], context: Any
    ) -> AsyncIterator[ner_pb2.StreamRecognizeResponse]:
        """Texts as they come, answers as they are ready; reads no further ahead than IN_FLIGHT.

        Each text is answered by the version that is current when it comes: a stream may outlive many.
        """
        running: set[asyncio.Task[ner_pb2.StreamRecognizeResponse]] = set()
        following: asyncio.Task[Any] | None = asyncio.ensure_future(anext(requests, None))
        try:
            while running or following is not None:
                full = len(running) >= IN_FLIGHT
                awaited = running if full or following is None else running | {following}
                done, _ = await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                if following is not None and following in done:
                    done.discard(following)
                    request = following.result()
                    following = None
                    if request is not None:
                        running.add(asyncio.create_task(self._stream_item(request, context)))
                        following = asyncio.ensure_future(anext(requests, None))
                for task in done:
                    running.discard(task)
                    yield task.result()
        finally:
            for task in (*running, *([following] if following else [])):
                task.cancel()

    async def ListDomains(self, request: ner_pb2.ListDomainsRequest, context: Any) -> ner_pb2.ListDomainsResponse:  # noqa: N802
        """The bundle's domains."""
        with self._versions.use(asked_version(context)) as version:
            engine = version.engine
            return ner_pb2.ListDomainsResponse(
                domains=[
                    ner_pb2.Domain(name=name, types=engine.types(name), has_prompt=engine.prompt(name) is not None)
                    for name in engine.domains
                ]
            )

    async def _stream_item(
        self, request: ner_pb2.StreamRecognizeRequest, context: Any
    ) -> ner_pb2.StreamRecognizeResponse:
        try:
            with self._versions.use(asked_version(context)) as version:
                item = await self._item(version, request.request, "request.", context)
        except SmallmError as error:
            return ner_pb2.StreamRecognizeResponse(id=request.id, error=to_status(error))
        if item.HasField("error"):
            return ner_pb2.StreamRecognizeResponse(id=request.id, error=item.error)
        return ner_pb2.StreamRecognizeResponse(id=request.id, response=item.response)

    async def _item(
        self, version: Version, request: ner_pb2.RecognizeRequest, path: str, context: Any
    ) -> ner_pb2.BatchItem:
        try:
            return ner_pb2.BatchItem(response=await self._recognize(version, request, path, context))
        except Exception as error:
            return ner_pb2.BatchItem(error=to_status(error))

    async def _recognize(
        self, version: Version, request: ner_pb2.RecognizeRequest, path: str, context: Any
    ) -> ner_pb2.RecognizeResponse:
        begin = time.perf_counter()
        mode = self._checked(request, path)
        domain = version.engine.domain(request.domain)
        local: Outcome | None = None  # at hand if the bridge had to know how certain the local model is

        async def confidence() -> float:
            nonlocal local
            local = await version.batcher.submit(Item(request.text, domain, confidence=True))
            assert local.recognized.confidence is not None
            return local.recognized.confidence

        prompt, left_s = version.engine.prompt(domain), self._left_s(context)
        answer = await self._bridge.answer(prompt, request.text, mode, left_s, confidence)
        answered = time.perf_counter()
        outcome = local
        if outcome is None or answer.spans is not None:
            outcome = await version.batcher.submit(Item(request.text, domain, answer.spans))
        kept = [entity for entity in outcome.recognized.entities if entity.score >= request.min_score]
        return ner_pb2.RecognizeResponse(
            entities=[_entity(entity, request.text) for entity in kept],
            llm=_llm_part(answer, local.recognized.confidence if local else None),
            timings=_timings(begin, answered, outcome),
            domain=domain,
        )

    def _left_s(self, context: Any) -> float | None:
        """Seconds the LLM may take of the caller's deadline; the local model needs the rest."""
        remaining: float | None = context.time_remaining()
        return None if remaining is None else max(0.0, remaining - self._bridge.settings.reserve_s)

    def _checked(self, request: ner_pb2.RecognizeRequest, path: str) -> Mode:
        if len(request.text) > MAX_TEXT:
            raise InvalidRequestError(f"{path}text", f"{len(request.text)} characters; at most {MAX_TEXT}")
        if not 0.0 <= request.min_score <= 1.0:
            raise InvalidRequestError(f"{path}min_score", "must lie between 0 and 1")
        if request.llm_mode == ner_pb2.LLM_MODE_UNSPECIFIED:
            return self._bridge.settings.mode
        if request.llm_mode not in _MODES:
            raise InvalidRequestError(f"{path}llm_mode", f"unknown value {request.llm_mode}")
        return _MODES[request.llm_mode]


def _entity(entity: Entity, text: str) -> ner_pb2.Entity:
    span = entity.span
    return ner_pb2.Entity(
        start=span.start,
        end=span.end,
        type=span.type,
        text=text[span.start : span.end],
        score=entity.score,
        source=ner_pb2.EntitySource.Value(f"ENTITY_SOURCE_{entity.source.name}"),
    )


def _llm_part(answer: Answer, confidence: float | None) -> ner_pb2.LlmPart:
    status = ner_pb2.LlmStatus.Value(f"LLM_STATUS_{answer.status.name}")
    return ner_pb2.LlmPart(status=status, reason=answer.reason or "", local_confidence=confidence)


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
