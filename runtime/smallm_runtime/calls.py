"""What is done with every call before and after its method: identity, limits, log, metrics, trace."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc

from smallm.errors import OverloadedError, RequestError
from smallm_runtime.access import Access
from smallm_runtime.interceptor import Handler, refusal
from smallm_runtime.logs import REQUEST_ID_KEY, Call, current, read_request_id
from smallm_runtime.settings import Limits

_log = logging.getLogger(__name__)
RETRY_AFTER_S = 1.0
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_UNNAMED = "other"  # methods that are none, or that a stranger named: not to fill the metrics with


class Observer(Protocol):
    """Told of every call."""

    def begun(self, call: Call, metadata: Any) -> None:
        """Before the method runs."""

    def ended(self, call: Call, method: str, code: str, seconds: float) -> None:
        """After. `method` is from a small set, `call.method` is what was asked for."""


@dataclass
class Running:
    """How much there is at the moment."""

    calls: int = 0
    streams: int = 0


@dataclass
class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """The outermost one; the one that maps errors comes next."""

    access: Access
    limits: Limits
    observers: tuple[Observer, ...] = ()
    log_calls: bool = True
    running: Running = field(default_factory=Running)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Handler]], details: Any) -> Handler:
        """See grpc.aio.ServerInterceptor. A caller who is refused has no message read."""
        metadata = tuple(details.invocation_metadata or ())
        call = Call(read_request_id(metadata), details.method)
        streams = False
        try:
            call.caller = self.access.check(details.method, metadata)
            handler = await continuation(details)
            streams = handler.request_streaming or handler.response_streaming
            self._admit(streams)
        except RequestError as error:
            return self._wrapped(refusal(error), call, metadata, counts=False)
        return self._wrapped(handler, call, metadata, counts=True)

    def _admit(self, streams: bool) -> None:
        if self.running.calls >= self.limits.calls:
            raise OverloadedError(f"{self.limits.calls} calls are running already", RETRY_AFTER_S)
        if streams and self.running.streams >= self.limits.streams:
            raise OverloadedError(f"{self.limits.streams} streams are open already", RETRY_AFTER_S)

    def _wrapped(self, handler: Handler, call: Call, metadata: Any, counts: bool) -> Handler:
        streams = handler.request_streaming or handler.response_streaming
        counted = Running(int(counts), int(counts and streams))
        for kind in ("unary_unary", "stream_unary"):
            if method := getattr(handler, kind):
                return handler._replace(**{kind: self._unary(method, call, metadata, counted)})
        for kind in ("unary_stream", "stream_stream"):
            if method := getattr(handler, kind):
                return handler._replace(**{kind: self._streaming(method, call, metadata, counted)})
        return handler

    def _unary(self, method: Callable[..., Awaitable[Any]], call: Call, metadata: Any, counted: Running) -> Any:
        async def wrapped(request: Any, context: Any) -> Any:
            with self._around(call, metadata, context, counted):
                return await method(request, context)

        return wrapped

    def _streaming(self, method: Callable[..., AsyncIterator[Any]], call: Call, metadata: Any, counted: Running) -> Any:
        async def wrapped(request: Any, context: Any) -> AsyncIterator[Any]:
            with self._around(call, metadata, context, counted):
                async for response in method(request, context):
                    yield response

        return wrapped

    @contextmanager
    def _around(self, call: Call, metadata: Any, context: Any, counted: Running) -> Iterator[None]:
        current.set(call)  # of this call's task only
        call.peer = context.peer()
        context.set_trailing_metadata(((REQUEST_ID_KEY, call.id),))
        self.running.calls += counted.calls
        self.running.streams += counted.streams
        begin, cancelled = time.perf_counter(), False
        for observer in self.observers:
            observer.begun(call, metadata)
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            cancelled = True
            raise
        finally:
            self.running.calls -= counted.calls
            self.running.streams -= counted.streams
            code = "CANCELLED" if cancelled else _code(context)
            self._ended(call, code, time.perf_counter() - begin)

    def _ended(self, call: Call, code: str, seconds: float) -> None:
        strange = code in ("UNIMPLEMENTED", "UNAUTHENTICATED", "PERMISSION_DENIED")
        for observer in self.observers:
            observer.ended(call, _UNNAMED if strange else call.method, code, seconds)
        if self.log_calls:
            fields = {"method": call.method[:100], "code": code, "ms": round(1000 * seconds, 2)}
            fields |= {"reason": call.reason} if call.reason else {}
            fields |= {"caller": call.caller} if call.caller else {}
            fields |= {"peer": call.peer} if strange else {}
            _log.info("call", extra={"fields": fields})


def _code(context: Any) -> str:
    code = context.code()
    number = code.value[0] if isinstance(code, grpc.StatusCode) else int(code or 0)
    return _CODES.get(number, "UNKNOWN")
