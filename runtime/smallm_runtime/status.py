"""Errors to google.rpc.Status: the one mapping, for whole calls and for items of a batch alike."""

from __future__ import annotations

import logging
import uuid

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.code_pb2 import (
    FAILED_PRECONDITION,
    INTERNAL,
    INVALID_ARGUMENT,
    NOT_FOUND,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
)
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status

from smallm.errors import (
    InvalidRequestError,
    LoadError,
    OverloadedError,
    UnavailableError,
    UnknownDomainError,
    UnknownVersionError,
)

_log = logging.getLogger(__name__)
DOMAIN = "smallm"


def to_status(error: Exception) -> Status:
    """The status a client sees. Anything unexpected is INTERNAL with an id that the server's log shares."""
    if isinstance(error, InvalidRequestError):
        violation = BadRequest.FieldViolation(field=error.field, description=error.description)
        return _status(INVALID_ARGUMENT, "INVALID_ARGUMENT", str(error), BadRequest(field_violations=[violation]))
    if isinstance(error, UnknownDomainError):
        resource = ResourceInfo(resource_type="domain", resource_name=error.domain, description=str(error))
        return _status(NOT_FOUND, "UNKNOWN_DOMAIN", str(error), resource)
    if isinstance(error, OverloadedError):
        return _status(RESOURCE_EXHAUSTED, "OVERLOADED", str(error), _retry(error.retry_after_s))
    if isinstance(error, UnavailableError):
        return _status(UNAVAILABLE, error.reason, str(error), _retry(error.retry_after_s))
    if isinstance(error, UnknownVersionError):
        resource = ResourceInfo(resource_type="bundle_version", resource_name=error.version, description=str(error))
        return _status(NOT_FOUND, "UNKNOWN_VERSION", str(error), resource)
    if isinstance(error, LoadError):  # its message names paths: for the log
        _log.error("%s: %s", error.reason, error)
        return _status(FAILED_PRECONDITION, error.reason, "the bundle was not taken; the server's log says why")
    incident = uuid.uuid4().hex[:12]
    # The traceback has code lines and types, but str(error) may hold a customer's text.
    _log.error("internal error %s: %s", incident, _trace(error))
    return _status(INTERNAL, "INTERNAL", f"internal error {incident}; the server's log has more")


def _status(code: int, reason: str, message: str, *details: Message) -> Status:
    status = Status(code=code, message=message)
    for detail in (ErrorInfo(reason=reason, domain=DOMAIN), *details):
        status.details.add().Pack(detail)
    return status


def _retry(after_s: float) -> RetryInfo:
    delay = Duration()
    delay.FromMilliseconds(int(1000 * after_s))
    return RetryInfo(retry_delay=delay)


def _trace(error: Exception) -> str:
    frames, step = [], error.__traceback__
    while step is not None:
        frames.append(f"{step.tb_frame.f_code.co_qualname}:{step.tb_lineno}")
        step = step.tb_next
    return f"{type(error).__name__} at {' > '.join(frames)}"
