"""What a request may hold and what an answer says about itself, through gRPC."""

from __future__ import annotations

import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status
from smallm_runtime.settings import Limits

from smallm.ner.v1 import ner_pb2, ner_pb2_grpc
from tests.fake_llm import FakeLLM
from tests.llm.bridges import settings as bridge_settings
from tests.runtime.servers import serving
from tests.runtime.test_status import unpacked

TEXT = "𠮷😀3号循环泵漏油，更换机械密封"
LIMITS = Limits()


@pytest.fixture
def stub(address: str) -> Any:
    with grpc.insecure_channel(address) as channel:
        yield ner_pb2_grpc.NerServiceStub(channel)


def test_offsets_come_in_the_unit_asked_for_and_say_so(stub: Any) -> None:
    encodings = {"CODE_POINTS": ("utf-32-le", 4), "UTF16_CODE_UNITS": ("utf-16-le", 2), "UTF8_BYTES": ("utf-8", 1)}
    found = {}
    for name, (encoding, width) in encodings.items():
        unit = ner_pb2.OffsetUnit.Value(f"OFFSET_UNIT_{name}")
        answer = stub.Recognize(ner_pb2.RecognizeRequest(text=TEXT, offset_unit=unit))
        assert answer.offset_unit == unit and answer.entities
        raw = TEXT.encode(encoding)
        assert [raw[one.start * width : one.end * width].decode(encoding) for one in answer.entities] == [
            one.text for one in answer.entities
        ]
        found[name] = [one.start for one in answer.entities]
    assert found["CODE_POINTS"] != found["UTF16_CODE_UNITS"] != found["UTF8_BYTES"]
    plain = stub.Recognize(ner_pb2.RecognizeRequest(text=TEXT))
    assert plain.offset_unit == ner_pb2.OFFSET_UNIT_CODE_POINTS
    assert [one.start for one in plain.entities] == found["CODE_POINTS"]


def test_an_answer_names_the_bundle_the_head_and_the_variant(stub: Any, bundle_folder: Path) -> None:
    told = stub.Recognize(ner_pb2.RecognizeRequest(text=TEXT)).provenance
    manifest = (bundle_folder / "manifest.json").read_bytes()
    (domain,) = json.loads(manifest)["domains"]
    head = (bundle_folder / f"heads/{domain}/head.int8.onnx").read_bytes()
    assert told.bundle_sha256 == hashlib.sha256(manifest).hexdigest()
    assert told.head_sha256 == hashlib.sha256(head).hexdigest()
    assert told.variant == "int8"


def test_an_answer_says_when_the_llm_gave_its_part(stub: Any, bundle_folder: Path, tmp_path: Path) -> None:
    from smallm_runtime.server import Settings

    assert not stub.Recognize(ner_pb2.RecognizeRequest(text="泵", llm_mode=ner_pb2.LLM_MODE_OFF)).llm.HasField(
        "answered_at"
    )
    before = time.time()
    with FakeLLM() as fake:
        told = Settings(bundle_folder, bridge=bridge_settings(fake.url, store=tmp_path / "s"))
        with serving(told) as where, grpc.insecure_channel(where) as channel:
            recognize = ner_pb2_grpc.NerServiceStub(channel).Recognize
            fresh, cached = (recognize(ner_pb2.RecognizeRequest(text="那台泵坏了")).llm for _ in range(2))
    assert (fresh.status, cached.status) == (ner_pb2.LLM_STATUS_FRESH, ner_pb2.LLM_STATUS_CACHED)
    assert before - 0.001 <= fresh.answered_at.ToMilliseconds() / 1000 <= time.time()
    assert cached.answered_at == fresh.answered_at


INVALID = {
    "min_score, not a number": ({"min_score": math.nan}, "min_score", "INVALID_FIELD"),
    "min_score, infinite": ({"min_score": math.inf}, "min_score", "INVALID_FIELD"),
    "min_score, negative": ({"min_score": -1e-9}, "min_score", "INVALID_FIELD"),
    "llm_mode": ({"llm_mode": 99}, "llm_mode", "INVALID_FIELD"),
    "offset_unit": ({"offset_unit": -1}, "offset_unit", "INVALID_FIELD"),
    "domain, long": ({"domain": "x" * 1_000_000}, "domain", "INVALID_FIELD"),
    "domain, a path": ({"domain": "../../etc/passwd"}, "domain", "INVALID_FIELD"),
    "domain, NUL": ({"domain": "a\0"}, "domain", "INVALID_FIELD"),
    "text": ({"text": "泵" * (LIMITS.text + 1)}, "text", "TOO_LARGE"),
}


@pytest.mark.parametrize("name", list(INVALID))
def test_an_invalid_field_is_named_alone_and_in_a_batch(stub: Any, name: str) -> None:
    fields, path, reason = INVALID[name]
    request = ner_pb2.RecognizeRequest(**fields)  # type: ignore[arg-type]
    with pytest.raises(grpc.RpcError) as caught:
        stub.Recognize(request)
    (item,) = stub.BatchRecognize(ner_pb2.BatchRecognizeRequest(items=[request])).items
    whole = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    for prefix, found in (("", unpacked(whole)), ("items[0].", unpacked(item.error))):
        info, bad = found["ErrorInfo"], found["BadRequest"]
        assert isinstance(info, ErrorInfo) and info.reason == reason
        assert isinstance(bad, BadRequest) and bad.field_violations[0].field == prefix + path
    assert len(whole.message) < 500 and "passwd" not in whole.message


def test_a_batch_is_bounded_in_items_and_in_all_its_text(stub: Any) -> None:
    many = [ner_pb2.RecognizeRequest()] * (LIMITS.batch_items + 1)
    long = [ner_pb2.RecognizeRequest(text="a" * LIMITS.text)] * (LIMITS.batch_text // LIMITS.text + 1)
    absurd = [ner_pb2.RecognizeRequest()] * 1_000_000
    for items in (many, long, absurd):
        with pytest.raises(grpc.RpcError) as caught:
            stub.BatchRecognize(ner_pb2.BatchRecognizeRequest(items=items))
        found = unpacked(rpc_status.from_call(caught.value))  # type: ignore[arg-type]
        assert isinstance(found["ErrorInfo"], ErrorInfo) and found["ErrorInfo"].reason == "TOO_LARGE"


@pytest.mark.parametrize(
    "text", ["\0", "泵\0漏油\0", "\ufffe\uffff\U0010ffff", "\u202e泵\u200d", "\r\n\t 　", "a" * 20_000]
)
def test_odd_texts_are_answered_with_slices_of_themselves(stub: Any, text: str) -> None:
    answer = stub.Recognize(ner_pb2.RecognizeRequest(text=text))
    assert all(one.text == text[one.start : one.end] for one in answer.entities)
