"""The client for threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
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


class Client:
    """Talks to one server; use it in a `with` block. Threads may share it.

    `timeout_s` is the deadline of a call with all its retries.
    """

    def __init__(
        self, server: str | Connection, timeout_s: float = 60.0, *, retry: Retry = DEFAULT, window: int = 64
    ) -> None:
        """`window` is how many texts of a stream may be on their way. Raises DataError for an unusable connection."""
        self._connection = Connection(server) if isinstance(server, str) else server
        self._timeout_s, self._retry, self._window = timeout_s, retry, window
        self._channel = self._connection.open(grpc)
        self._stub: Any = ner_pb2_grpc.NerServiceStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def recognize(self, text: str, **options: Unpack[Options]) -> Result:
        """Entities of one text. Raises ServerError, DataError for a text or option that no message can hold."""
        script = calls.unary(request_of(text, options), self._tries())
        return result_of(self._play(self._stub.Recognize, script))

    def recognize_batch(self, texts: Sequence[str], **options: Unpack[Options]) -> list[Outcome]:
        """One result or error a text, in order. Raises as `recognize` if the call as a whole fails."""
        script = calls.batch([request_of(text, options) for text in texts], self._tries())
        outcomes: list[Outcome] = self._play(self._stub.BatchRecognize, script)
        return outcomes

    def recognize_stream(
        self, texts: Iterable[tuple[str, str]], **options: Unpack[Options]
    ) -> Iterator[tuple[str, Outcome]]:
        """(id, result or error) as they are ready, for (id, text) pairs; no deadline. Raises as `recognize`.

        `texts` is read in a thread of its own, no further ahead than the window. If the connection breaks, what
        has no answer yet is sent again on another.
        """
        stream, tries = _Stream(texts, options, Backlog(self._window, self._retry)), Tries(self._retry, None)
        try:
            while not stream.finished:
                call = self._stub.StreamRecognize(stream.sender(), metadata=self._connection.metadata)
                try:
                    for response in call:
                        tries.succeeded()
                        answer = stream.take(response)
                        if answer is not None:
                            yield answer
                    problem = stream.unanswered()
                except grpc.RpcError as error:
                    problem = failure_of_call(error, self._connection.address)
                finally:
                    call.cancel()
                if problem is not None:
                    time.sleep(tries.wait_s(problem))
        finally:
            stream.close()

    def domains(self) -> dict[str, list[str]]:
        """The server's domains and their entity types. Raises ServerError."""
        script = calls.unary(ner_pb2.ListDomainsRequest(), self._tries())
        response: ner_pb2.ListDomainsResponse = self._play(self._stub.ListDomains, script)
        return {domain.name: list(domain.types) for domain in response.domains}

    def _tries(self) -> Tries:
        return Tries(self._retry, self._timeout_s)

    def _play(self, method: Any, script: Script) -> Any:
        answer: Any = None
        while True:
            try:
                step = script.send(answer)
            except StopIteration as end:
                return end.value
            if isinstance(step, Call):
                try:
                    answer = method(step.request, timeout=step.timeout_s, metadata=self._connection.metadata)
                except grpc.RpcError as error:
                    answer = failure_of_call(error, self._connection.address)
            else:
                time.sleep(step.seconds)
                answer = None


class _Stream:
    """A reader thread fills the backlog, gRPC's thread of the current call empties it, the caller's takes answers."""

    def __init__(self, texts: Iterable[tuple[str, str]], options: Options, backlog: Backlog) -> None:
        self._texts, self._options, self._backlog = texts, options, backlog
        self._changed = threading.Condition()
        self._calls = 0
        self._exhausted = self._closed = False
        self._problem: BaseException | None = None
        threading.Thread(target=self._read, daemon=True, name="smallm-stream").start()

    @property
    def finished(self) -> bool:
        """Whether every text has its answer. Raises what reading the texts raised."""
        with self._changed:
            if self._problem is not None:
                raise self._problem
            return self._exhausted and not len(self._backlog)

    def close(self) -> None:
        """Read and send nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def unanswered(self) -> ServerError | None:
        """What is wrong if a call ended well before every text had its answer."""
        return TryAgainError("UNAVAILABLE", "the stream ended early") if len(self._backlog) else None

    def take(self, response: ner_pb2.StreamRecognizeResponse) -> tuple[str, Outcome] | None:
        """See Backlog."""
        with self._changed:
            answer = self._backlog.take(response)
            self._changed.notify_all()
            return answer

    def sender(self) -> Iterator[ner_pb2.StreamRecognizeRequest]:
        """The requests of a new call; those of an earlier one end."""
        with self._changed:
            self._calls += 1
            self._backlog.send_all_again()
            self._changed.notify_all()
        return self._send(self._calls)

    def _send(self, call: int) -> Iterator[ner_pb2.StreamRecognizeRequest]:
        while True:
            with self._changed:
                while (due_s := self._backlog.due_s()) != 0.0 and not self._over(call):
                    self._changed.wait(due_s)
                if self._over(call):
                    return
                request = self._backlog.next()
            yield request

    def _over(self, call: int) -> bool:
        done = self._exhausted and not len(self._backlog)
        return done or self._closed or self._problem is not None or call != self._calls

    def _read(self) -> None:
        try:
            for id_, text in self._texts:
                request = request_of(text, self._options)
                with self._changed:
                    self._backlog.add(id_, request)
                    self._changed.notify_all()
                    while self._backlog.full and not self._closed:
                        self._changed.wait()
                    if self._closed:
                        return
        except BaseException as error:
            self._problem = error
        finally:
            with self._changed:
                self._exhausted = True
                self._changed.notify_all()
