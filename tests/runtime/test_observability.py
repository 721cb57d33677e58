"""What operators see of calls: ids, log lines, metrics and spans. No text of a request is in any of them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from smallm_runtime import edge
from smallm_runtime.logs import REQUEST_ID_KEY, Call, Lines, _Json, _Text, current, read_request_id
from smallm_runtime.server import SERVICE
from smallm_runtime.settings import Auth, Limits, Settings
from smallm_runtime.tracing import Tracing

from smallm.ner.v1 import ner_pb2, ner_pb2_grpc
from tests.runtime.servers import serving

TEXT = "机密客户泵漏油"
METHOD = f"/{SERVICE}/Recognize"


def free_address() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


@pytest.fixture
def stub(bundle_folder: Path) -> Iterator[Any]:
    with serving(Settings(bundle_folder, threads=1)) as where, grpc.insecure_channel(where) as channel:
        yield ner_pb2_grpc.NerServiceStub(channel)


def trailers(call: grpc.Call) -> dict[str, str]:
    return {name: str(value) for name, value in call.trailing_metadata()}


def test_a_request_id_is_taken_over_made_and_echoed_whatever_comes_of_the_call(
    stub: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    good, bad = ner_pb2.RecognizeRequest(text=TEXT), ner_pb2.RecognizeRequest(text=TEXT, min_score=7)
    _, call = stub.Recognize.with_call(good, metadata=[(REQUEST_ID_KEY, "order-7")])
    assert trailers(call)[REQUEST_ID_KEY] == "order-7"
    with pytest.raises(grpc.RpcError) as caught:
        stub.Recognize(bad, metadata=[(REQUEST_ID_KEY, "order-8")])
    told = trailers(caught.value)  # type: ignore[arg-type]
    assert told[REQUEST_ID_KEY] == "order-8" and "grpc-status-details-bin" in told
    made = trailers(stub.Recognize.with_call(good)[1])[REQUEST_ID_KEY]
    assert len(made) == 32 and made != trailers(stub.Recognize.with_call(good)[1])[REQUEST_ID_KEY]
    stream = stub.StreamRecognize(iter([ner_pb2.StreamRecognizeRequest(request=good)]))
    assert len(list(stream)) == 1 and len(trailers(stream)[REQUEST_ID_KEY]) == 32
    lines = [getattr(record, "fields", {}) for record in caplog.records if record.message == "call"]
    assert [(line["code"], line.get("reason")) for line in lines[:2]] == [
        ("OK", None), ("INVALID_ARGUMENT", "INVALID_FIELD"),
    ]  # fmt: skip
    assert TEXT not in caplog.text and TEXT not in json.dumps([str(vars(record)) for record in caplog.records])


@pytest.mark.parametrize("value", ["", "a b", "a\nb", "泵", "a" * 129, b"bytes", '"', "<x>"])
def test_an_id_that_could_deceive_a_log_is_replaced(value: str | bytes) -> None:
    assert len(read_request_id([("other", "x"), (REQUEST_ID_KEY, value)])) == 32
    assert read_request_id([(REQUEST_ID_KEY, "4bf92f35-77b3:7/+=@_.")]) == "4bf92f35-77b3:7/+=@_."


def test_a_line_of_the_log_is_one_line_and_shows_no_message_of_an_exception() -> None:
    try:
        raise ValueError(TEXT)
    except ValueError as error:
        record = logging.LogRecord(
            "a", logging.ERROR, "", 1, "two\nlines", None, (type(error), error, error.__traceback__)
        )
    record.fields = {"code": "OK"}
    token = current.set(Call("id-1", METHOD))
    try:
        value = json.loads(_Json().format(record))
        line = _Text().format(record)
    finally:
        current.reset(token)
    assert (value["request_id"], value["code"], value["level"]) == ("id-1", "OK", "error")
    assert "ValueError" in value["exception"] and "ValueError" in line and "\n" not in line
    assert TEXT not in line and TEXT not in json.dumps(value, ensure_ascii=False)


def test_a_log_that_nobody_reads_stops_nobody_and_says_later_what_it_lost() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as reader, os.fdopen(writing, "w") as writer:
        log = Lines(writer, waiting=5)
        for number in range(100):  # 6 MB; a pipe holds far less
            log.handle(logging.LogRecord("a", logging.INFO, "", 1, f"{number} {'x' * 60_000}", None, None))
        early = [reader.readline().split()[0] for _ in range(5)]
        while log.dropped:
            log.handle(logging.LogRecord("a", logging.INFO, "", 1, "late", None, None))
            time.sleep(0.01)
        log.close()
        writer.close()
        late = reader.read().splitlines()
    assert early == ["0", "1", "2", "3", "4"]
    assert late[-1] == "late" and "lines before this one were dropped" in late[-2]


def test_metrics_count_calls_texts_and_state_and_hold_no_text(bundle_folder: Path) -> None:
    where = free_address()
    told = Settings(bundle_folder, threads=1, metrics=where)
    with serving(told) as server, grpc.insecure_channel(server) as channel:
        stub: Any = ner_pb2_grpc.NerServiceStub(channel)
        for _ in range(3):
            stub.Recognize(ner_pb2.RecognizeRequest(text=TEXT))
        stub.BatchRecognize(ner_pb2.BatchRecognizeRequest(items=[ner_pb2.RecognizeRequest(text="泵")] * 2))
        with pytest.raises(grpc.RpcError):
            stub.Recognize(ner_pb2.RecognizeRequest(text=TEXT, domain="nowhere"))
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(f"/{SERVICE}/{'x' * 300}", bytes, bytes)(b"")
        text = urllib.request.urlopen(f"http://{where}/metrics", timeout=5).read().decode()
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}
    assert values[f'smallm_calls_total{{code="OK",method="{METHOD}"}}'] == 3
    assert values[f'smallm_calls_total{{code="NOT_FOUND",method="{METHOD}"}}'] == 1
    assert values['smallm_calls_total{code="UNIMPLEMENTED",method="other"}'] == 1
    assert values['smallm_refusals_total{reason="UNKNOWN_DOMAIN"}'] == 1
    assert values['smallm_text_seconds_count{stage="model"}'] == 5
    assert values["smallm_calls_running"] == 0 and values["smallm_queue_texts"] == 0
    assert values['smallm_texts_total{outcome="computed"}'] >= 2 and values["smallm_engine_tokens_total"] > 0
    assert values["process_resident_memory_bytes"] > 1e6 and values["smallm_threads"] > 1
    assert any(name.startswith("smallm_bundle_info{") and 'state="current"' in name for name in values)
    assert 'smallm_llm_requests_total{mode="wait"}' in values
    assert TEXT not in text and "xxx" not in text and "nowhere" not in text


def test_limits_refuse_more_than_they_say(bundle_folder: Path) -> None:
    limits = Limits(message_bytes=5000, streams=1, text=10)
    with serving(Settings(bundle_folder, threads=1, limits=limits)) as where, grpc.insecure_channel(where) as channel:
        stub: Any = ner_pb2_grpc.NerServiceStub(channel)

        def refused(request: ner_pb2.RecognizeRequest) -> grpc.StatusCode:
            with pytest.raises(grpc.RpcError) as caught:
                stub.Recognize(request)
            return caught.value.code()

        assert refused(ner_pb2.RecognizeRequest(text="泵" * 11)) is grpc.StatusCode.INVALID_ARGUMENT
        assert refused(ner_pb2.RecognizeRequest(text="泵" * 5000)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        item = ner_pb2.StreamRecognizeRequest(request=ner_pb2.RecognizeRequest(text="泵"))

        def endless() -> Iterator[ner_pb2.StreamRecognizeRequest]:
            while True:
                yield item

        first = stub.StreamRecognize(endless())
        next(first)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.StreamRecognize(iter([item])))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        first.cancel()
        assert stub.Recognize(ner_pb2.RecognizeRequest(text="泵")).domain


def test_a_connection_too_many_and_one_that_says_nothing_are_closed(bundle_folder: Path) -> None:
    told = Settings(bundle_folder, threads=1, limits=Limits(connections=2, handshake_s=0.5))
    with serving(told) as where, contextlib.ExitStack() as stack:

        def connected() -> bool:
            options = [("grpc.use_local_subchannel_pool", 1)]
            stub: Any = ner_pb2_grpc.NerServiceStub(stack.enter_context(grpc.insecure_channel(where, options)))
            try:
                return bool(stub.ListDomains(ner_pb2.ListDomainsRequest(), timeout=20).domains)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                return False

        assert [connected() for _ in range(3)] == [True, True, False]
    with serving(told) as where:
        host, _, port = where.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as silent:
            while silent.recv(4096):  # the server's greeting, then its end
                pass


def test_spans_continue_the_callers_trace_and_name_what_the_log_does(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    provider = trace.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(memory))
    monkeypatch.setattr(edge, "open_tracing", lambda address: (Tracing(provider), provider.shutdown))
    told = Settings(bundle_folder, threads=1, otel="http://127.0.0.1:4317")
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with serving(told) as where, grpc.insecure_channel(where) as channel:
        stub: Any = ner_pb2_grpc.NerServiceStub(channel)
        stub.Recognize(ner_pb2.RecognizeRequest(text=TEXT), metadata=[("traceparent", parent)])
        with pytest.raises(grpc.RpcError):
            stub.Recognize(ner_pb2.RecognizeRequest(text=TEXT, min_score=9))
    first, second = memory.get_finished_spans()
    assert first.name == METHOD[1:] and f"{first.context.trace_id:032x}" in parent
    assert first.attributes["rpc.grpc.status_code"] == "OK"
    assert second.attributes["smallm.reason"] == "INVALID_FIELD" and second.parent is None
    assert TEXT not in first.to_json() + second.to_json()


def test_unsigned_bundles_are_refused_where_signatures_are_asked_for(bundle_folder: Path, tmp_path: Path) -> None:
    import shutil

    from smallm_runtime import loading

    from smallm import bundle, signing
    from smallm.errors import LoadError

    copy = Path(shutil.copytree(bundle_folder, tmp_path / "copy"))
    public = signing.keygen(tmp_path / "ours")
    found = loading.fingerprint(copy)
    with pytest.raises(LoadError, match="not signed"):
        loading.load(copy, found, 1, "cpu", [public])
    signing.sign((copy / bundle.MANIFEST).read_bytes(), tmp_path / "ours", copy / bundle.SIGNATURES)
    assert loading.load(copy, found, 1, "cpu", [public]).domains
    told = Settings(copy, threads=1, require_signature=True, trusted_keys=(public,), auth=Auth())
    with serving(told) as where, grpc.insecure_channel(where) as channel:
        assert ner_pb2_grpc.NerServiceStub(channel).ListDomains(ner_pb2.ListDomainsRequest()).domains
