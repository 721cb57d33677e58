"""Every exception that leaves a handler becomes a google.rpc.Status here, and nowhere else."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from smallm.errors import MalformedMessageError, RequestError, UnknownMethodError
from smallm_runtime.logs import current
from smallm_runtime.status import reason, to_status
from smallm_runtime.wire import check_fields

Handler = Any
_KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """The outermost one. Without it grpc.aio sends exceptions to clients verbatim, or without details.

    It parses requests itself: what cannot be parsed would otherwise be an internal error of grpc's.
    """

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Handler]], details: Any) -> Handler:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(details)
        if handler is None:
            return refusal(UnknownMethodError("this server has no such method"))
        parse = handler.request_deserializer or bytes
        one, several = lambda raw: _parsed(parse, raw), lambda raws: _each(parse, raws)  # noqa: E731
        read = several if handler.request_streaming else one
        kind = _KINDS[handler.request_streaming, handler.response_streaming]
        wrap = _streaming if handler.response_streaming else _unary
        return handler._replace(request_deserializer=None, **{kind: wrap(getattr(handler, kind), read)})


def refusal(error: RequestError) -> Handler:
    """What an interceptor returns in place of a handler to refuse a call of any kind."""

    async def refuse(_: Any, context: Any) -> AsyncIterator[Any]:
        await _abort(context, error)
        yield

    return grpc.stream_stream_rpc_method_handler(refuse)


def _parsed(parse: Callable[[bytes], Any], raw: bytes) -> Any:
    check_fields(raw)
    try:
        return parse(raw)
    except DecodeError:
        raise MalformedMessageError("the request's bytes are no message of this method's kind") from None


async def _each(parse: Callable[[bytes], Any], raws: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for raw in raws:
        yield _parsed(parse, raw)


def _unary(method: Callable[..., Awaitable[Any]], read: Callable[[Any], Any]) -> Callable[..., Awaitable[Any]]:
    async def wrapped(raw: Any, context: Any) -> Any:
        try:
            return await method(read(raw), context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _abort(context, error)

    return wrapped


def _streaming(
    method: Callable[..., AsyncIterator[Any] | Awaitable[None]], read: Callable[[Any], Any]
) -> Callable[..., AsyncIterator[Any]]:
    async def wrapped(raw: Any, context: Any) -> AsyncIterator[Any]:
        try:
            answers = method(read(raw), context)
            if inspect.isawaitable(answers):  # grpc's other way: the method writes to the context itself
                await answers
                return
            async for response in answers:
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _abort(context, error)

    return wrapped


async def _abort(context: Any, error: Exception) -> None:
    found = to_status(error)
    call = current.get()
    if call is not None:
        call.reason = reason(found)
    status = rpc_status.to_status(found)
    trailers = (*(context.trailing_metadata() or ()), *status.trailing_metadata)
    await context.abort(status.code, status.details, trailers)
