"""What a server or gRPC itself reports, as typed errors."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from smallm.errors import (
    AccessDeniedError,
    DeadlineExceededError,
    RequestRefusedError,
    ServerError,
    TryAgainError,
)

_DETAILS = "grpc-status-details-bin"
_ENDED_AS_IT_BEGAN = "Internal error from Core"  # grpc.aio, of a stream whose true status it did not wait for
_NAMES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}
_KINDS: dict[str, type[ServerError]] = {
    "INVALID_ARGUMENT": RequestRefusedError,
    "NOT_FOUND": RequestRefusedError,
    "FAILED_PRECONDITION": RequestRefusedError,
    "UNIMPLEMENTED": RequestRefusedError,
    "UNAUTHENTICATED": AccessDeniedError,
    "PERMISSION_DENIED": AccessDeniedError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "RESOURCE_EXHAUSTED": RequestRefusedError,  # a message too large for gRPC; with RetryInfo it is another matter
    "UNAVAILABLE": TryAgainError,
}


def failure_of_call(error: Any, address: str) -> ServerError:
    """The error of a whole call (a grpc.RpcError, of either kind of channel)."""
    code, message = error.code(), error.details() or ""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS:
            try:
                status = Status.FromString(value)
            except DecodeError:
                break
            if status.code == code.value[0]:
                return failure_of(status)
    if message == _ENDED_AS_IT_BEGAN:
        return TryAgainError(code.name, message)
    if code is grpc.StatusCode.UNAVAILABLE:
        message = f"no server answers at {address} ({message})"
    return failure_of(Status(code=code.value[0], message=message))


def failure_of(status: Status) -> ServerError:
    """The error that a status stands for. It may be tried again if the server says when, or is not there."""
    code = _NAMES.get(status.code, "UNKNOWN")
    info, retry, bad = ErrorInfo(), RetryInfo(), BadRequest()
    for packed in status.details:
        for detail in (info, retry, bad):
            packed.Unpack(detail)
    told = any(packed.Is(RetryInfo.DESCRIPTOR) for packed in status.details)
    kind = TryAgainError if told else _KINDS.get(code, ServerError)
    return kind(
        code,
        status.message,
        reason=info.reason,
        retry_after_s=retry.retry_delay.ToMilliseconds() / 1000 if told else None,
        fields={one.field: one.description for one in bad.field_violations},
    )
