"""The server through gRPC, as clients meet it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from smallm_runtime.engine import Engine, Item, Work
from smallm_runtime.heads import Recognized
from smallm_runtime.server import SERVICE, Settings, running

from smallm.cli import main
from smallm.client import Client, Result
from smallm.documents import Span
from smallm.errors import ArtifactError, ServerError
from smallm.fusion import Entity, Source
from smallm.ner.v1 import ner_pb2, ner_pb2_grpc
from tests.conftest import SampleDomain
from tests.fake_llm import FakeLLM, Fault
from tests.llm.bridges import settings as bridge_settings
from tests.runtime.servers import serving


def spans(result: Result | ServerError) -> list[Span]:
    assert isinstance(result, Result)
    return [Span(entity.start, entity.end, entity.type) for entity in result.entities]


def test_grpc_equals_in_process_for_the_whole_test_set_alone_batched_and_streamed(
    address: str, bundle_folder: Path, sample: SampleDomain
) -> None:
    texts = [document.text for document in sample.test]
    engine = Engine.load(bundle_folder)
    expected = [
        [entity.span for entity in engine.recognize([Item(text, answer=answer)])[0]]
        for text, answer in zip(texts, sample.test_answers, strict=True)
    ]
    assert sum(map(len, expected)) > 300
    with Client(address) as client:
        alone = [client.recognize(text) for text in texts]
        assert [spans(result) for result in alone] == expected
        assert {result.llm for result in alone} == {"cached"}
        assert all(e.text == text[e.start : e.end] for r, text in zip(alone, texts, strict=True) for e in r.entities)
        batched = client.recognize_batch(texts[:64]) + client.recognize_batch(texts[64:])
        assert [spans(result) for result in batched] == expected
        streamed = dict(client.recognize_stream((str(index), text) for index, text in enumerate(texts)))
        assert [spans(streamed[str(index)]) for index in range(len(texts))] == expected


def test_every_answer_says_what_the_llm_had_to_do_with_it(address: str, sample: SampleDomain) -> None:
    text = next(d.text for d, a in zip(sample.test, sample.test_answers, strict=True) if a)
    with Client(address) as client:
        cached, off = client.recognize(text), client.recognize(text, llm_mode="off")
        unknown = client.recognize("从没见过的文本：泵漏油")
    assert (cached.llm, cached.llm_reason) == ("cached", "")
    assert {entity.source for entity in cached.entities} <= {"llm", "local", "both"}
    assert any(entity.source in ("llm", "both") for entity in cached.entities)
    assert (off.llm, off.llm_reason) == ("absent", "off")
    assert {entity.source for entity in off.entities} <= {"local"}
    assert (unknown.llm, unknown.llm_reason) == ("absent", "not_cached")
    assert unknown.timings["total_us"] >= unknown.timings["model_us"] > 0 and unknown.timings["batch_size"] >= 1


def test_min_score_empty_and_long_texts(address: str) -> None:
    with Client(address) as client:
        everything = client.recognize("3号循环泵漏油，更换机械密封", llm_mode="off")
        certain = client.recognize("3号循环泵漏油，更换机械密封", llm_mode="off", min_score=0.9)
        assert certain.entities == [entity for entity in everything.entities if entity.score >= 0.9]
        assert client.recognize("").entities == []
        long = "3号循环泵漏油，更换机械密封。" * 100
        assert all(entity.text == long[entity.start : entity.end] for entity in client.recognize(long).entities)


def test_a_document_of_a_million_characters_fits_through(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\U00020000" * 1_000_000  # four bytes each; an entity at every third

    step = Engine.step

    def found(self: Engine, works: list[Work]) -> None:
        if works[0].item.text != text:  # the canaries
            return step(self, works)
        for work in works:
            starts = range(0, len(work.item.text), 3)
            work.result = Recognized([Entity(Span(s, s + 1, "EQUIP"), 0.5, Source.LOCAL) for s in starts], 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", found)
        with serving(Settings(bundle_folder)) as where, Client(where) as client:
            result = client.recognize(text, llm_mode="wait")
    assert len(result.entities) == 333_334 and result.entities[-1].start == 999_999


def detail(error: grpc.RpcError, kind: type) -> object:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            return message
    raise AssertionError(f"no {kind.__name__} in {status}")


def test_errors_are_statuses_with_details(address: str) -> None:
    stub = ner_pb2_grpc.NerServiceStub(grpc.insecure_channel(address))
    with pytest.raises(grpc.RpcError) as caught:
        stub.Recognize(ner_pb2.RecognizeRequest(text="泵", min_score=2))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(caught.value, error_details_pb2.BadRequest).field_violations[0].field == "min_score"  # type: ignore[attr-defined]
    assert detail(caught.value, error_details_pb2.ErrorInfo).reason == "INVALID_FIELD"  # type: ignore[attr-defined]
    with pytest.raises(grpc.RpcError) as caught:
        stub.Recognize(ner_pb2.RecognizeRequest(text="泵", domain="elsewhere"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert detail(caught.value, error_details_pb2.ResourceInfo).resource_name == "elsewhere"  # type: ignore[attr-defined]


def test_a_bad_item_fails_alone_in_batch_and_stream(address: str) -> None:
    stub = ner_pb2_grpc.NerServiceStub(grpc.insecure_channel(address))
    good, bad = ner_pb2.RecognizeRequest(text="泵"), ner_pb2.RecognizeRequest(text="泵" * 1_000_001)
    batch = stub.BatchRecognize(ner_pb2.BatchRecognizeRequest(items=[good, bad, good])).items
    assert [item.WhichOneof("result") for item in batch] == ["response", "error", "response"]
    assert "items[1].text" in batch[1].error.message
    requests = [ner_pb2.StreamRecognizeRequest(id=i, request=r) for i, r in (("a", good), ("b", bad))]
    answers = {one.id: one.WhichOneof("result") for one in stub.StreamRecognize(iter(requests))}
    assert answers == {"a": "response", "b": "error"}


def test_an_internal_error_shows_neither_path_nor_text(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step = Engine.step

    def explode(self: Engine, works: list[Work]) -> None:
        if works[0].item.text == "客户机密":
            raise RuntimeError(f"/etc/secret {works[0].item.text}")
        step(self, works)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", explode)
        with serving(Settings(bundle_folder)) as where, Client(where) as client, pytest.raises(ServerError) as caught:
            client.recognize("客户机密")
    assert caught.value.code == "INTERNAL"
    for told in (str(caught.value), caplog.text):
        assert "secret" not in told and "机密" not in told
    assert "RuntimeError" in caplog.text


def test_health_follows_the_server_and_reflection_lists_it(address: str) -> None:
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    channel = grpc.insecure_channel(address)
    for name in ("", SERVICE):
        check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
        assert check.status == health_pb2.HealthCheckResponse.SERVING
    assert SERVICE in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_a_live_llm_answers_is_remembered_and_may_fail(bundle_folder: Path, tmp_path: Path) -> None:
    with FakeLLM() as fake:
        settings = Settings(bundle_folder, bridge=bridge_settings(fake.url, store=tmp_path / "s"))
        with serving(settings) as where, Client(where) as client:
            first, second = client.recognize("那台泵坏了"), client.recognize("那台泵坏了")
            assert (first.llm, second.llm) == ("fresh", "cached")
            assert spans(first) == spans(second)
            fake.script(Fault(status=503, body="{}"))
            down = client.recognize("另一台泵坏了")
            assert (down.llm, down.llm_reason) == ("absent", "unavailable")
            offline = client.recognize("另一台泵坏了", llm_mode="off")
            assert spans(down) == spans(offline)


def test_what_cannot_be_served_is_refused_before_listening(bundle_folder: Path, tmp_path: Path, address: str) -> None:
    async def start(settings: Settings) -> None:
        async with running(settings):
            pass

    def attempt(settings: Settings) -> None:
        asyncio.run(start(settings))

    with pytest.raises(ArtifactError, match="no manifest.json"):
        attempt(Settings(tmp_path))
    with pytest.raises(ArtifactError, match="cannot listen"):
        attempt(Settings(bundle_folder, listen=address))
    with pytest.raises(ArtifactError, match="metrics = .*cannot listen"):
        attempt(Settings(bundle_folder, metrics=address))
    with pytest.raises(ValueError, match="HOST:PORT"):
        Settings(bundle_folder, metrics="9100")


def test_recognize_prints_one_json_line_a_text_in_order(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("3号泵漏油\n\n" + "泵" * 1_000_001 + "\n电机异响\n", encoding="utf-8")
    assert main(["recognize", "--server", address, "--file", str(file)]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["id"] for line in lines] == ["1", "3", "4"]
    assert "INVALID_ARGUMENT" in lines[1]["error"]
    assert lines[0]["text"] == "3号泵漏油" and set(lines[0]["entities"][0] if lines[0]["entities"] else {}) <= {
        "start", "end", "type", "text", "score", "source",
    }  # fmt: skip
    assert main(["recognize", "--server", "127.0.0.1:1", "泵"]) == 1
    assert "no server answers" in capsys.readouterr().err
