"""The Open Inference Protocol as the real client speaks it, and as a hostile one does."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from smallm_runtime import open_inference
from smallm_runtime.kserve import SERVICE
from smallm_runtime.settings import Limits

from smallm.client import Client
from tests.runtime.test_status import unpacked

TEXTS = ["3号循环泵漏油，更换机械密封", "", "𠮷电机异响"]
REQUEST = open_inference.message("ModelInferRequest")


@pytest.fixture(scope="module")
def report(address: str) -> Any:
    program = Path(__file__).with_name("triton.py")
    done = subprocess.run([sys.executable, program, address, *TEXTS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_tritonclient_finds_server_and_model(report: Any, bundle_folder: Path) -> None:
    assert report["live"] and report["ready"] and report["model ready"] and not report["no model"]
    assert report["server"]["name"] == "smallm"
    assert report["model"]["name"] == "work_orders" and report["model"]["versions"] == [bundle_folder.name]
    (text,) = report["model"]["inputs"]
    assert (text["name"], text["datatype"], text["shape"]) == ("text", "BYTES", ["-1"])
    assert [one["name"] for one in report["model"]["outputs"]] == ["entities", "details"]


def test_tritonclient_gets_what_the_native_client_gets(report: Any, address: str, bundle_folder: Path) -> None:
    assert (report["id"], report["version"]) == ("request-7", bundle_folder.name)
    with Client(address) as client:
        native = [client.recognize(text) for text in TEXTS]
        strict = [client.recognize(text, llm_mode="off", min_score=0.9, offset_unit="utf8_bytes") for text in TEXTS]
    assert [[vars(one) for one in result.entities] for result in native] == report["entities"]
    assert [result.llm for result in native] == [one["llm"] for one in report["details"]]
    assert report["details"][0]["provenance"] == vars(native[0].provenance)
    assert [[vars(one) for one in result.entities] for result in strict] == report["told"]
    assert report["shape"] == [len(TEXTS), 1] and report["only"] == ["entities"]


def test_tritonclient_is_refused_with_a_code(report: Any) -> None:
    codes = ["NOT_FOUND", "INVALID_ARGUMENT", "INVALID_ARGUMENT", "INVALID_ARGUMENT", "NOT_FOUND"]
    assert report["refused"] == [f"StatusCode.{code}" for code in codes]


def request(raw: bytes | None = None, shape: tuple[int, ...] = (1,), **changes: Any) -> Any:
    tensor = {"name": "text", "datatype": "BYTES", "shape": shape, **changes}
    made = REQUEST(model_name="work_orders", inputs=[tensor])
    if raw is not None:
        made.raw_input_contents.append(raw)
    return made


PUMP = struct.pack("<I", 3) + "泵".encode()
HOSTILE = {
    "length beyond the end": (request(struct.pack("<I", 0xFFFFFFFF) + b"x"), "raw_input_contents[0]"),
    "half a length": (request(b"\x01\0"), "raw_input_contents[0]"),
    "half an element": (request(PUMP[:-1]), "raw_input_contents[0]"),
    "not UTF-8": (request(struct.pack("<I", 1) + b"\xff"), "raw_input_contents[0]"),
    "a million empty texts": (request(b"\0" * 4_000_000, (1_000_000,)), "raw_input_contents[0]"),
    "shape of another count": (request(PUMP, (2,)), "inputs[0].shape"),
    "negative shape": (request(PUMP, (-1,)), "inputs[0].shape"),
    "shape that overflows": (request(PUMP, (2**62, 2**62, 16)), "inputs[0].shape"),
    "other type": (request(PUMP, datatype="FP32"), "inputs[0].datatype"),
    "other name": (request(PUMP, name="x"), "inputs"),
    "no input": (REQUEST(model_name="work_orders"), "inputs"),
    "two kinds of contents": (request(PUMP, contents={"bytes_contents": [b"x"]}), "raw_input_contents"),
    "shared memory": (
        request(PUMP, parameters={"shared_memory_region": {"string_param": "/dev/mem"}}), "inputs[0].parameters",
    ),
    "long text": (request(contents={"bytes_contents": [b"a" * (Limits().text + 1)]}), "inputs[0].contents[0].text"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_tensors_are_refused_by_the_field(address: str, name: str) -> None:
    sent, field = HOSTILE[name]
    channel: Any
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE}/ModelInfer")(sent.SerializeToString())
    bad = unpacked(rpc_status.from_call(caught.value))["BadRequest"]  # type: ignore[arg-type]
    assert isinstance(bad, BadRequest) and bad.field_violations[0].field == field


def test_typed_contents_are_taken_and_answers_are_raw(address: str) -> None:
    sent = request(contents={"bytes_contents": ["泵".encode(), b"\0"]}, shape=(2, 1))
    channel: Any
    with grpc.insecure_channel(address) as channel:
        raw = channel.unary_unary(f"/{SERVICE}/ModelInfer")(sent.SerializeToString())
    answer = open_inference.message("ModelInferResponse").FromString(raw)
    assert [list(one.shape) for one in answer.outputs] == [[2, 1], [2, 1]] and len(answer.raw_output_contents) == 2
    assert not any(one.HasField("contents") for one in answer.outputs)


def test_reflection_describes_every_service_it_lists(address: str) -> None:
    from google.protobuf.descriptor_pool import DescriptorPool

    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        names = database.get_services()
        assert {"smallm.ner.v1.NerService", "smallm.admin.v1.AdminService", SERVICE} <= set(names)
        assert all(pool.FindServiceByName(name).methods for name in names)
