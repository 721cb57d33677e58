"""Errors to google.rpc.Status: the one mapping, for whole calls and for items of a batch alike."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2 as code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status

from smallm import errors
from smallm.ner.v1 import ner_pb2

_log = logging.getLogger(__name__)
DOMAIN = "smallm"


def _none(error: BaseException) -> list[Message]:
    return []


def _fields(error: errors.InvalidRequestError) -> list[Message]:
    violation = BadRequest.FieldViolation(field=error.field, description=error.description)
    return [BadRequest(field_violations=[violation])]


def _retry(error: errors.RetryLaterError) -> list[Message]:
    delay = Duration()
    delay.FromMilliseconds(int(1000 * error.retry_after_s))
    return [RetryInfo(retry_delay=delay)]


def _domain(error: errors.UnknownDomainError) -> list[Message]:
    return [ResourceInfo(resource_type="domain", resource_name=error.domain, description=str(error))]


def _version(error: errors.UnknownVersionError) -> list[Message]:
    return [ResourceInfo(resource_type="bundle_version", resource_name=error.version, description=str(error))]


def _service(error: errors.UnknownServiceError) -> list[Message]:
    return [ResourceInfo(resource_type="service", resource_name=error.service, description=str(error))]


# Kind, code, reason ('' is the error's own), details. The first that fits: a special kind comes before its base.
_MAPPING: list[tuple[type[BaseException], int, str, Callable[[Any], list[Message]]]] = [
    (errors.TooLargeError, code.INVALID_ARGUMENT, "TOO_LARGE", _fields),
    (errors.InvalidRequestError, code.INVALID_ARGUMENT, "INVALID_FIELD", _fields),
    (errors.MalformedMessageError, code.INVALID_ARGUMENT, "MALFORMED_MESSAGE", _none),
    (errors.UnknownDomainError, code.NOT_FOUND, "UNKNOWN_DOMAIN", _domain),
    (errors.UnknownVersionError, code.NOT_FOUND, "UNKNOWN_VERSION", _version),
    (errors.UnknownServiceError, code.NOT_FOUND, "UNKNOWN_SERVICE", _service),
    (errors.OverloadedError, code.RESOURCE_EXHAUSTED, "OVERLOADED", _retry),
    (errors.StoppingError, code.UNAVAILABLE, "STOPPING", _retry),
    (errors.UnavailableError, code.UNAVAILABLE, "", _retry),
    (errors.DeadlineError, code.DEADLINE_EXCEEDED, "DEADLINE", _none),
    (errors.CredentialsMissingError, code.UNAUTHENTICATED, "CREDENTIALS_MISSING", _none),
    (errors.UnauthenticatedError, code.UNAUTHENTICATED, "CREDENTIALS_REJECTED", _none),
    (errors.PermissionDeniedError, code.PERMISSION_DENIED, "SCOPE_MISSING", _none),
    (errors.UnknownMethodError, code.UNIMPLEMENTED, "UNKNOWN_METHOD", _none),
    (asyncio.CancelledError, code.CANCELLED, "CANCELLED", _none),
]


def to_status(error: BaseException) -> Status:
    """The status a client sees. Anything unexpected is INTERNAL with an id that the server's log shares."""
    if isinstance(error, errors.LoadError):  # its message names paths: for the log
        _log.error("%s: %s", error.reason, error)
        return _status(code.FAILED_PRECONDITION, error.reason, "the bundle was not taken; the server's log says why")
    for kind, number, reason, details in _MAPPING:
        if isinstance(error, kind):
            return _status(number, reason or error.reason, str(error) or "the call was cancelled", *details(error))  # type: ignore[attr-defined]
    incident = uuid.uuid4().hex[:12]
    # The traceback has code lines and types, but str(error) may hold a customer's text.
    _log.error("internal error %s: %s", incident, _trace(error))
    return _status(code.INTERNAL, "INTERNAL", f"internal error {incident}; the server's log has more")


def reason(status: Status) -> str:
    """The reason in a status from here."""
    info = ErrorInfo()
    return info.reason if status.details and status.details[0].Unpack(info) else ""


def _status(number: int, reason: str, message: str, *details: Message) -> Status:
    """`reason` is a name of the contract's ErrorReason; ValueError would be a fault of ours."""
    ner_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}")
    status = Status(code=number, message=message)
    for detail in (ErrorInfo(reason=reason, domain=DOMAIN), *details):
        status.details.add().Pack(detail)
    return status


def _trace(error: BaseException) -> str:
    frames, step = [], error.__traceback__
    while step is not None:
        frames.append(f"{step.tb_frame.f_code.co_qualname}:{step.tb_lineno}")
        step = step.tb_next
    return f"{type(error).__name__} at {' > '.join(frames)}"
