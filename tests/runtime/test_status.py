"""Every refusal has a code, a reason and the details that help; one table says which."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from smallm_runtime import status
from smallm_runtime.server import SERVICE
from smallm_runtime.status import to_status

from smallm import errors
from smallm.ner.v1 import ner_pb2

PROTO = Path(__file__).parents[2] / "proto" / "smallm" / "ner" / "v1" / "ner.proto"
RELOAD = ("BUNDLE_INVALID", "BUNDLE_CHANGED", "LOAD_FAILED", "WARM_UP_FAILED", "CANARY_FAILED", "NAME_TAKEN")
CASES: list[tuple[BaseException, str, str, type[Message] | None]] = [
    (errors.InvalidRequestError("items[3].text", "no"), "INVALID_ARGUMENT", "INVALID_FIELD", BadRequest),
    (errors.TooLargeError("text", "no"), "INVALID_ARGUMENT", "TOO_LARGE", BadRequest),
    (errors.MalformedMessageError("no"), "INVALID_ARGUMENT", "MALFORMED_MESSAGE", None),
    (errors.UnknownDomainError("x", ["y"]), "NOT_FOUND", "UNKNOWN_DOMAIN", ResourceInfo),
    (errors.UnknownVersionError("x", ["y"]), "NOT_FOUND", "UNKNOWN_VERSION", ResourceInfo),
    (errors.UnknownServiceError("x"), "NOT_FOUND", "UNKNOWN_SERVICE", ResourceInfo),
    (errors.OverloadedError("no", 0.5), "RESOURCE_EXHAUSTED", "OVERLOADED", RetryInfo),
    (errors.UnavailableError("LOADING", "no", 1.0), "UNAVAILABLE", "LOADING", RetryInfo),
    (errors.UnavailableError("RECOVERING", "no", 1.0), "UNAVAILABLE", "RECOVERING", RetryInfo),
    (errors.StoppingError(), "UNAVAILABLE", "STOPPING", RetryInfo),
    (errors.DeadlineError("no"), "DEADLINE_EXCEEDED", "DEADLINE", None),
    (asyncio.CancelledError(), "CANCELLED", "CANCELLED", None),
    (errors.CredentialsMissingError("no"), "UNAUTHENTICATED", "CREDENTIALS_MISSING", None),
    (errors.UnauthenticatedError("no"), "UNAUTHENTICATED", "CREDENTIALS_REJECTED", None),
    (errors.PermissionDeniedError("admin"), "PERMISSION_DENIED", "SCOPE_MISSING", None),
    (errors.UnknownMethodError("no"), "UNIMPLEMENTED", "UNKNOWN_METHOD", None),
    (RuntimeError("/etc/secret"), "INTERNAL", "INTERNAL", None),
    *((errors.LoadError(reason, "/etc/secret"), "FAILED_PRECONDITION", reason, None) for reason in RELOAD),
]


def unpacked(of: Status) -> dict[str, Message]:
    """The details by kind."""
    found: dict[str, Message] = {}
    for packed in of.details:
        for kind in (ErrorInfo, BadRequest, ResourceInfo, RetryInfo):
            message = kind()
            if packed.Unpack(message):
                found[kind.__name__] = message
    return found


@pytest.mark.parametrize(("error", "code", "reason", "detail"), CASES, ids=[case[2] for case in CASES])
def test_each_kind_of_error_has_its_status(
    error: BaseException, code: str, reason: str, detail: type[Message] | None
) -> None:
    made = to_status(error)
    found = unpacked(made)
    assert code_pb2.Code.Name(made.code) == code
    assert (found["ErrorInfo"].reason, found["ErrorInfo"].domain) == (reason, "smallm")  # type: ignore[attr-defined]
    assert set(found) == {"ErrorInfo"} | ({detail.__name__} if detail else set())
    assert made.message and "secret" not in made.message


def test_no_reason_is_without_a_case_and_the_contract_says_the_code_that_is_sent() -> None:
    stated = dict(re.findall(r"ERROR_REASON_(\w+) = [1-9]\d*; +// ([A-Z_]+)", PROTO.read_text(encoding="utf-8")))
    assert stated == {reason: code for _, code, reason, _ in CASES}
    assert {f"ERROR_REASON_{name}" for name in stated} | {"ERROR_REASON_UNSPECIFIED"} == set(ner_pb2.ErrorReason.keys())


def test_every_request_error_is_mapped_on_its_own() -> None:
    def kinds(of: type[errors.RequestError]) -> set[type[errors.RequestError]]:
        return {of} | {sub for direct in of.__subclasses__() for sub in kinds(direct)}

    abstract = {errors.RequestError, errors.RetryLaterError}
    assert kinds(errors.RequestError) - abstract <= {kind for kind, *_ in status._MAPPING}


def test_unknown_methods_and_bytes_that_are_no_message_are_refused_with_a_reason(address: str) -> None:
    hostile = {
        "Nothing": b"",
        "Recognize": b"\x0a\x02\xff\xfe",  # `text` in invalid UTF-8
        "BatchRecognize": b"\x0a\xff\xff\xff\xff\x0f",  # a length beyond the end
        "ListDomains": b"\x08",
    }
    channel: Any
    with grpc.insecure_channel(address) as channel:
        for method, raw in hostile.items():
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(f"/{SERVICE}/{method}")(raw)
            info = unpacked(rpc_status.from_call(caught.value))["ErrorInfo"]  # type: ignore[arg-type]
            expected = "UNKNOWN_METHOD" if method == "Nothing" else "MALFORMED_MESSAGE"
            assert info.reason == expected  # type: ignore[attr-defined]
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"\x0a\x01x")
        assert unpacked(rpc_status.from_call(caught.value))["ErrorInfo"].reason == "UNKNOWN_SERVICE"  # type: ignore[arg-type, attr-defined]
        answers = channel.stream_stream(f"/{SERVICE}/StreamRecognize")(iter([b"\x12\x03\x0a\x01\xff"]))
        with pytest.raises(grpc.RpcError) as caught:
            list(answers)
        assert unpacked(rpc_status.from_call(caught.value))["ErrorInfo"].reason == "MALFORMED_MESSAGE"  # type: ignore[arg-type, attr-defined]
