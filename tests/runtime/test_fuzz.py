"""A small share of benchmarks/fuzz.py, and the same questions asked by hypothesis."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from smallm_runtime import loading
from smallm_runtime.engine import Engine
from smallm_runtime.settings import Limits, Settings

from smallm import bundle
from smallm.errors import ArtifactError
from smallm.ner.v1 import ner_pb2, ner_pb2_grpc
from tests.hostile import bundles, judge, requests
from tests.runtime.servers import serving


@pytest.fixture(scope="module")
def address(bundle_folder: Path) -> Iterator[str]:
    limits = dict(flag.removeprefix("--limits-").replace("-", "_").split("=") for flag in requests.LIMITS)
    with serving(Settings(bundle_folder, limits=Limits.model_validate(limits))) as where:
        yield where


def test_hostile_requests_get_the_right_status_and_let_nothing_out(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    verdict = asyncio.run(judge.judge(address, requests.requests(10 * len(requests.KINDS), seed=7)))
    assert not verdict.wrong, "\n".join(verdict.wrong[:10])
    assert sum(verdict.outcomes.values()) == 10 * len(requests.KINDS)
    assert requests.CANARY not in caplog.text and "Traceback" not in caplog.text
    codes = {code for _, code, _ in verdict.outcomes}
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"} <= codes


@given(content=st.binary(max_size=300) | st.text(max_size=200).map(lambda text: b"\x0a" + bytes([127]) + text.encode()))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_bytes_a_message_has_it_is_answered_or_refused_with_a_reason(address: str, content: bytes) -> None:
    try:
        ner_pb2.RecognizeRequest.FromString(content)
        parses = True
    except DecodeError:
        parses = False
    right = requests.ANY_CONTENT - {requests.MALFORMED} if parses else frozenset({requests.MALFORMED})
    one = requests.Hostile("any", requests.RECOGNIZE, (content,), right)
    verdict = asyncio.run(judge.judge(address, [one], parallel=1))
    assert not verdict.wrong


@given(text=st.text(max_size=300), unit=st.sampled_from([1, 2, 3]))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_text_holds_entities_are_slices_of_it(address: str, text: str, unit: int) -> None:
    with grpc.insecure_channel(address) as channel:
        request = ner_pb2.RecognizeRequest(text=text, offset_unit=unit)  # type: ignore[arg-type]
        found = ner_pb2_grpc.NerServiceStub(channel).Recognize(request)
    encoding = {1: "utf-32-le", 2: "utf-16-le", 3: "utf-8"}[unit]
    size, data = {1: 4, 2: 2, 3: 1}[unit], text.encode(encoding)
    for entity in found.entities:
        assert data[size * entity.start : size * entity.end].decode(encoding) == entity.text


@pytest.fixture(scope="module")
def small(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that takes no time to copy: its graphs are cut off and its manifest made to fit."""
    folder = Path(shutil.copytree(bundle_folder, tmp_path_factory.mktemp("small") / "b"))
    for graph in folder.rglob("*.onnx"):
        graph.write_bytes(graph.read_bytes()[:5000])
    manifest = bundle.read(folder, verify=False)
    bundle.seal(folder, manifest)
    bundle.read(folder)
    return folder


@pytest.mark.parametrize("kind", list(bundles.KINDS))
def test_a_hostile_bundle_is_refused_with_a_reason_before_a_graph_is_opened(
    small: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a graph was about to be opened")

    monkeypatch.setattr(Engine, "__init__", never)
    for seed in range(6):
        folder = bundles.harm(kind, small, tmp_path / str(seed), seed)
        with pytest.raises(ArtifactError) as caught:
            loading.load(folder, loading.fingerprint(folder), 1, "cpu")
        assert str(caught.value).startswith(str(tmp_path)), caught.value
