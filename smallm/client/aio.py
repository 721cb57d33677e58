"""The client for asyncio; see `sync` for what its methods do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Unpack

import grpc

from smallm.client import calls
from smallm.client.answers import Options, Outcome, Result, request_of, result_of
from smallm.client.backlog import Backlog
from smallm.client.calls import Call, Script
from smallm.client.connection import Connection
from smallm.client.failures import failure_of_call
from smallm.client.retry import DEFAULT, Retry, Tries
from smallm.errors import ServerError, TryAgainError
from smallm.ner.v1 import ner_pb2, ner_pb2_grpc

Texts = Iterable[tuple[str, str]] | AsyncIterable[tuple[str, str]]


class AsyncClient:
    """Talks to one server; use it in an `async with` block, in one event loop."""

    def __init__(
        self, server: str | Connection, timeout_s: float = 60.0, *, retry: Retry = DEFAULT, window: int = 64
    ) -> None:
        """See Client. To be made inside the event loop."""
        self._connection = Connection(server) if isinstance(server, str) else server
        self._timeout_s, self._retry, self._window = timeout_s, retry, window
        self._channel = self._connection.open(grpc.aio)
        self._stub: Any = ner_pb2_grpc.NerServiceStub(self._channel)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def recognize(self, text: str, **options: Unpack[Options]) -> Result:
        """See Client."""
        script = calls.unary(request_of(text, options), self._tries())
        return result_of(await self._play(self._stub.Recognize, script))

    async def recognize_batch(self, texts: Sequence[str], **options: Unpack[Options]) -> list[Outcome]:
        """See Client."""
        script = calls.batch([request_of(text, options) for text in texts], self._tries())
        outcomes: list[Outcome] = await self._play(self._stub.BatchRecognize, script)
        return outcomes

    async def recognize_stream(self, texts: Texts, **options: Unpack[Options]) -> AsyncIterator[tuple[str, Outcome]]:
        """See Client; `texts` may be asynchronous and is read by a task of its own."""
        stream, tries = _Stream(texts, options, Backlog(self._window, self._retry)), Tries(self._retry, None)
        try:
            while not stream.finished:
                call = self._stub.StreamRecognize(stream.sender(), metadata=self._connection.metadata)
                try:
                    async for response in call:
                        tries.succeeded()
                        answer = stream.take(response)
                        if answer is not None:
                            yield answer
                    problem = stream.unanswered()
                except grpc.aio.AioRpcError as error:
                    problem = failure_of_call(error, self._connection.address)
                finally:
                    call.cancel()
                if problem is not None:
                    await asyncio.sleep(tries.wait_s(problem))
        finally:
            await stream.close()

    async def domains(self) -> dict[str, list[str]]:
        """See Client."""
        script = calls.unary(ner_pb2.ListDomainsRequest(), self._tries())
        response: ner_pb2.ListDomainsResponse = await self._play(self._stub.ListDomains, script)
        return {domain.name: list(domain.types) for domain in response.domains}

    def _tries(self) -> Tries:
        return Tries(self._retry, self._timeout_s)

    async def _play(self, method: Any, script: Script) -> Any:
        answer: Any = None
        while True:
            try:
                step = script.send(answer)
            except StopIteration as end:
                return end.value
            if isinstance(step, Call):
                try:
                    answer = await method(step.request, timeout=step.timeout_s, metadata=self._connection.metadata)
                except grpc.aio.AioRpcError as error:
                    answer = failure_of_call(error, self._connection.address)
            else:
                await asyncio.sleep(step.seconds)
                answer = None


class _Stream:
    """A reader task fills the backlog, the current call empties it, the caller takes answers. One event loop: no locks.

    `_changed` is replaced whenever something changed, which wakes all who wait for the old one.
    """

    def __init__(self, texts: Texts, options: Options, backlog: Backlog) -> None:
        self._texts, self._options, self._backlog = texts, options, backlog
        self._changed = asyncio.Event()
        self._calls = 0
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(lambda _: self._notify())

    @property
    def finished(self) -> bool:
        """Whether every text has its answer. Raises what reading the texts raised."""
        if not self._reader.done():
            return False
        self._reader.result()
        return not len(self._backlog)

    async def close(self) -> None:
        """Read and send nothing more."""
        self._calls += 1
        self._notify()
        self._reader.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self._reader

    def unanswered(self) -> ServerError | None:
        """What is wrong if a call ended well before every text had its answer."""
        return TryAgainError("UNAVAILABLE", "the stream ended early") if len(self._backlog) else None

    def take(self, response: ner_pb2.StreamRecognizeResponse) -> tuple[str, Outcome] | None:
        """See Backlog."""
        answer = self._backlog.take(response)
        self._notify()
        return answer

    def sender(self) -> AsyncIterator[ner_pb2.StreamRecognizeRequest]:
        """The requests of a new call; those of an earlier one end."""
        self._calls += 1
        self._backlog.send_all_again()
        self._notify()
        return self._send(self._calls)

    async def _send(self, call: int) -> AsyncIterator[ner_pb2.StreamRecognizeRequest]:
        while True:
            while (due_s := self._backlog.due_s()) != 0.0 and not self._over(call):
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), due_s)
            if self._over(call):
                return
            yield self._backlog.next()

    def _over(self, call: int) -> bool:
        read = self._reader.done()
        return call != self._calls or (read and (self._reader.exception() is not None or not len(self._backlog)))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _read(self) -> None:
        async for id_, text in _each(self._texts):
            self._backlog.add(id_, request_of(text, self._options))
            self._notify()
            while self._backlog.full:
                await self._changed.wait()


async def _each(texts: Texts) -> AsyncIterator[tuple[str, str]]:
    if isinstance(texts, AsyncIterable):
        async for pair in texts:
            yield pair
    else:
        for pair in texts:
            yield pair
