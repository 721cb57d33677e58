"""The gRPC service: messages in and out, nothing else decided here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from smallm.errors import SmallmError
from smallm.ner.v1 import ner_pb2, ner_pb2_grpc
from smallm_runtime.recognition import Recognition
from smallm_runtime.status import to_status
from smallm_runtime.versions import Version, Versions, asked_version


class NerService(ner_pb2_grpc.NerServiceServicer):
    """See proto/smallm/ner/v1/ner.proto."""

    def __init__(self, versions: Versions, recognition: Recognition) -> None:
        self._versions, self._recognition = versions, recognition

    async def Recognize(self, request: ner_pb2.RecognizeRequest, context: Any) -> ner_pb2.RecognizeResponse:  # noqa: N802
        """One text."""
        with self._versions.use(asked_version(context)) as version:
            return await self._recognition.recognize(version, request, "", context.time_remaining())

    async def BatchRecognize(  # noqa: N802
        self, request: ner_pb2.BatchRecognizeRequest, context: Any
    ) -> ner_pb2.BatchRecognizeResponse:
        """Several texts, each with its own fate."""
        self._recognition.check_batch(len(request.items), (len(item.text) for item in request.items), "items")
        with self._versions.use(asked_version(context)) as version:
            items = (self._item(version, item, f"items[{index}].", context) for index, item in enumerate(request.items))
            return ner_pb2.BatchRecognizeResponse(items=await asyncio.gather(*items))

    async def StreamRecognize(  # noqa: N802
        self, requests: AsyncIterator[ner_pb2.StreamRecognizeRequest], context: Any
    ) -> AsyncIterator[ner_pb2.StreamRecognizeResponse]:
        """Texts as they come, answers as they are ready; reads no further ahead than its limit.

        Each text is answered by the version that is current when it comes: a stream may outlive many.
        """
        running: set[asyncio.Task[ner_pb2.StreamRecognizeResponse]] = set()
        following: asyncio.Task[Any] | None = asyncio.ensure_future(anext(requests, None))
        try:
            while running or following is not None:
                full = len(running) >= self._recognition.limits.in_flight
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
            response = await self._recognition.recognize(version, request, path, context.time_remaining(), context)
        except Exception as error:
            return ner_pb2.BatchItem(error=to_status(error))
        return ner_pb2.BatchItem(response=response)
