"""What is counted before it is parsed."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from smallm_runtime.wire import check_fields

from smallm.errors import MalformedMessageError, TooLargeError
from smallm.ner.v1 import ner_pb2


def counted(raw: bytes, at_most: int) -> str:
    try:
        check_fields(raw, at_most)
    except (TooLargeError, MalformedMessageError) as error:
        return type(error).__name__
    return ""


@given(st.integers(0, 30), st.integers(1, 20))
def test_exactly_what_is_over_the_bound_is_refused(items: int, at_most: int) -> None:
    one = ner_pb2.RecognizeRequest(text="泵漏油", min_score=0.5, llm_mode=ner_pb2.LLM_MODE_OFF)
    raw = ner_pb2.BatchRecognizeRequest(items=[one] * items).SerializeToString()
    assert counted(raw, at_most) == ("TooLargeError" if items > at_most else "")


@given(st.binary(max_size=60), st.integers(1, 4))
def test_no_bytes_bring_it_down_and_what_parses_is_not_called_malformed(raw: bytes, at_most: int) -> None:
    found = counted(raw, at_most)
    try:
        ner_pb2.BatchRecognizeRequest.FromString(raw)
    except DecodeError:
        return
    assert found in ("", "TooLargeError") or any(byte & 7 in (3, 4) for byte in raw)


@pytest.mark.parametrize("before", [b"", b"\x0b\x0c", b"\xf8\xff\xff\xff\x0f\x01", b"\x0d1234", b"\x0912345678"])
def test_nothing_hides_a_flood(before: bytes) -> None:
    assert counted(before + b"\x0a\x00" * 100_000, 10_000) in ("TooLargeError", "MalformedMessageError")
