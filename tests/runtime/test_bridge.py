"""The LLM bridge behind gRPC: every fault ends in the local model's answer, in the caller's time."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from smallm_runtime.engine import Engine, Item
from smallm_runtime.server import Settings

from smallm.cli import main
from smallm.client import Client, Result
from smallm.llm.reasons import NEGATIVE
from smallm.llm.settings import BridgeSettings
from tests.conftest import SampleDomain
from tests.fake_llm import FakeLLM, Fault, replies_of
from tests.llm.bridges import settings as bridge_settings
from tests.llm.bridges import stored
from tests.llm.faults import FAULTS
from tests.runtime.servers import serving
from tests.runtime.test_server import spans

DEADLINE_S, GRACE_S = 1.5, 0.1


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeLLM]:
    with FakeLLM() as running:
        yield running


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "s.sqlite"


@pytest.fixture(scope="module")
def address(fake: FakeLLM, bundle_folder: Path, store: Path) -> Iterator[str]:
    endpoint = {"retries": 1, "timeout_s": 3}
    told = bridge_settings(fake.url, store=store, endpoint=endpoint, breaker={"failures": 1000})
    with serving(Settings(bundle_folder, bridge=told)) as where:
        yield where


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_fault_ends_in_the_local_answer_before_the_deadline(
    address: str, fake: FakeLLM, store: Path, bundle_folder: Path, name: str
) -> None:
    fault, reason = FAULTS[name]
    text = f"3号循环泵漏油（{name}），更换机械密封"
    with Client(address, timeout_s=DEADLINE_S) as client:
        local = client.recognize(text, llm_mode="off")
        assert len(local.entities) > 0
        fake.script(fault)
        begin = time.perf_counter()
        result = client.recognize(text)
        assert time.perf_counter() - begin <= DEADLINE_S + GRACE_S
    fake.script(Fault())
    assert (result.llm, result.llm_reason) == ("absent", reason)
    assert result.entities == local.entities
    kept = [record.outcome for record in stored(store) if record.text == text]
    assert kept == ([reason] if reason in NEGATIVE else [])


def test_background_then_cached(address: str) -> None:
    text = "备用泵异响，下周再看"
    with Client(address) as client:
        first = client.recognize(text, llm_mode="background")
        assert (first.llm, first.llm_reason) == ("absent", "background")
        give_up = time.monotonic() + 10
        while client.recognize(text, llm_mode="cached_only").llm != "cached":
            assert time.monotonic() < give_up
            time.sleep(0.02)


def test_when_uncertain_asks_about_just_the_texts_below_the_threshold(
    bundle_folder: Path, sample: SampleDomain, tmp_path: Path
) -> None:
    texts = [document.text for document in sample.test[:40]]
    engine = Engine.load(bundle_folder)
    confidences = [engine.run([Item(text)])[0].confidence for text in texts]
    assert len(confidences) == 40 and all(0 < one <= 1 for one in confidences)
    threshold = sorted(confidences)[20]
    with FakeLLM(replies_of(sample.answers.read_text(encoding="utf-8").splitlines())) as fake:
        told = bridge_settings(fake.url, mode="when_uncertain", threshold=threshold, endpoint={"timeout_s": 30})
        with serving(Settings(bundle_folder, bridge=told)) as where, Client(where) as client:
            results = [client.recognize(text) for text in texts]
            local = [client.recognize(text, llm_mode="off") for text in texts]
        asked = {request["messages"][-1]["content"] for request in fake.requests}
    for text, confidence, result, offline in zip(texts, confidences, results, local, strict=True):
        assert result.local_confidence == pytest.approx(confidence, abs=1e-4)
        certain = confidence >= threshold
        assert (result.llm, result.llm_reason) == (("absent", "certain") if certain else ("fresh", ""))
        assert (text in asked) is not certain
        if certain:
            assert result.entities == offline.entities and offline.local_confidence is None


def test_metrics_tell_what_happened_and_no_text(bundle_folder: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    with FakeLLM() as fake:
        price = {"input_price": 1.0, "output_price": 2.0, "retries": 0}
        told = bridge_settings(fake.url, endpoint=price, breaker={"failures": 1})
        with serving(Settings(bundle_folder, bridge=told, metrics=where)) as server, Client(server) as client:
            for _ in range(2):
                client.recognize("机密泵13812345678")
            fake.script(Fault(500, "{}"))
            client.recognize("另一台泵")
            text = urllib.request.urlopen(f"http://{where}/metrics", timeout=5).read().decode()
    for line in (
        'smallm_llm_requests_total{mode="wait"} 3.0',
        'smallm_llm_answers_total{outcome="fresh"} 1.0',
        'smallm_llm_answers_total{outcome="cached"} 1.0',
        'smallm_llm_answers_total{outcome="unavailable"} 1.0',
        "smallm_llm_asked_total 2.0",
        'smallm_llm_calls_total{endpoint="0",outcome="ok"} 1.0',
        'smallm_llm_tokens_total{direction="prompt",endpoint="0"} 100.0',
        'smallm_llm_money_total{endpoint="0"} 0.00012',
        'smallm_llm_redactions_total{rule="phone"} 1.0',
        'smallm_llm_breaker_state{endpoint="0"} 2.0',
        'smallm_llm_call_seconds_count{endpoint="0"} 1.0',
    ):
        assert line in text.splitlines(), line
    assert "机密" not in text and "13812345678" not in text


def test_evaluation_and_serving_are_the_same_with_the_replay_server_and_the_imported_store(
    bundle_folder: Path, sample: SampleDomain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, prompt = [document.text for document in sample.test], str(sample.folder / "prompt.json")
    with FakeLLM(replies_of(sample.answers.read_text(encoding="utf-8").splitlines())) as fake:
        replayed, imported = str(tmp_path / "replayed.sqlite"), str(tmp_path / "imported.sqlite")
        told = ["--llm-url", fake.url, "--llm-model", "m", "--store", replayed, "--prompt", prompt]
        assert main(["llm", "annotate", str(sample.folder / "test.jsonl"), *told]) == 0
        assert len(fake.requests) == len(set(texts))
        live = BridgeSettings.model_validate({"endpoint": [{"url": fake.url, "model": "m"}]})
        served = [_served(bundle_folder, live, texts[:40])]
    assert main(["llm", "import", str(sample.answers), "--store", imported]) == 0
    served.append(_served(bundle_folder, BridgeSettings(store=imported), texts[:40]))
    assert [one.llm for one in served[0]] == ["fresh"] * 40
    assert [one.llm for one in served[1]] == ["cached"] * 40
    assert [one.entities for one in served[0]] == [one.entities for one in served[1]]
    scores = []
    for store in (replayed, imported):
        exported = tmp_path / f"{Path(store).stem}.jsonl"
        assert main(["llm", "export", store, str(exported)]) == 0
        capsys.readouterr()
        command = ["evaluate", str(bundle_folder), str(sample.folder / "test.jsonl"), "--answers", str(exported)]
        assert main([*command, "--prompt", prompt, "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out))
    assert scores[0] == scores[1] and scores[0]["fused"]["f1"] > 0.3


def _served(bundle: Path, told: BridgeSettings, texts: list[str]) -> list[Result]:
    with serving(Settings(bundle, bridge=told)) as where, Client(where) as client:
        results = [client.recognize(text) for text in texts]
        assert all(len(spans(result)) == len(result.entities) for result in results)
        return results
