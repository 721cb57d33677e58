"""The bridge with a real `openai` client and an endpoint that misbehaves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smallm.llm import exchange
from smallm.llm.bridge import Answer, Bridge, Status, absent
from smallm.llm.prompt import Prompt
from smallm.llm.question import Questions
from smallm.llm.reasons import NEGATIVE, Reason
from smallm.llm.settings import KEY_VARIABLE, Mode
from smallm.llm.sqlite_store import SQLiteStore
from smallm.llm.store import open_store
from tests.fake_llm import FakeLLM, Fault
from tests.llm.bridges import PROMPT, PUMP, TEXT, answers, settings, stored, with_bridge
from tests.llm.faults import FAULTS, HANGS_S

GRACE_S = 0.1  # what an answer may come later than its caller's deadline
FRESH, CACHED = Answer(Status.FRESH, PUMP), Answer(Status.CACHED, PUMP)


@pytest.fixture
def fake() -> Iterator[FakeLLM]:
    with FakeLLM() as running:
        yield running


def timed(told: object, timeout_s: float) -> tuple[Answer, float]:
    async def use(bridge: Bridge) -> tuple[Answer, float]:
        begin = time.perf_counter()
        answer = await bridge.answer(PROMPT, TEXT, Mode.WAIT, timeout_s)
        took = time.perf_counter() - begin
        for flight in bridge._flights.values():
            flight.task.cancel()  # nothing here waits for what hangs
        return answer, took

    return with_bridge(told, use)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_fault_is_an_absent_answer_in_time_with_its_reason_and_nothing_wrong_is_remembered(
    fake: FakeLLM, tmp_path: Path, name: str
) -> None:
    fault, reason = FAULTS[name]
    fake.script(fault)
    told = settings(fake.url, store=tmp_path / "s", endpoint={"retries": 1})
    answer, took = timed(told, 1.0)
    assert answer == absent(reason) and took <= 1.0 + GRACE_S
    kept = stored(tmp_path / "s")
    assert [record.outcome for record in kept] == ([reason] if reason in NEGATIVE else [])
    fake.script(Fault())
    asked = len(fake.requests)
    again = answers(told, TEXT)
    if reason in NEGATIVE:  # it is not asked again for a short while
        assert again == [absent(reason)] and len(fake.requests) == asked
    else:
        assert again == [FRESH]


def test_fresh_then_cached_and_one_call_for_equal_questions(fake: FakeLLM, tmp_path: Path) -> None:
    fake.script(Fault(delay_s=0.2))
    told = settings(fake.url, store=tmp_path / "s")
    assert answers(told, TEXT, TEXT, TEXT) == [FRESH] * 3
    assert answers(told, TEXT, mode=Mode.CACHED_ONLY) == [CACHED] and len(fake.requests) == 1
    (record,) = stored(tmp_path / "s")
    assert (record.prompt_tokens, record.completion_tokens, record.text) == (100, 10, TEXT)
    assert record.latency_s >= 0.2 and "泵" in record.reply


def test_many_texts_at_once_are_no_burst(fake: FakeLLM) -> None:
    fake.script(Fault(delay_s=0.1))
    found = answers(settings(fake.url, limits={"concurrency": 4}), *(f"换泵{index}" for index in range(16)))
    assert {answer.status for answer in found} == {Status.FRESH} and 1 < fake.peak <= 4


def test_what_is_asked_is_the_prompt_with_the_sampling_and_the_key(
    fake: FakeLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    answers(settings(fake.url, endpoint={"response_format": "text", "seed": 3, "extra_body": {"top_k": 1}}), TEXT)
    (asked,) = fake.requests
    assert asked["messages"] == PROMPT.messages(TEXT) and "response_format" not in asked
    assert (asked["temperature"], asked["seed"], asked["top_k"], asked["max_tokens"]) == (0, 3, 1, 2048)
    (tmp_path / "key").write_text("of a file\n")
    other = {"key_file": tmp_path / "key", "temperature": None, "max_tokens_field": "max_completion_tokens"}
    answers(settings(fake.url, endpoint=other), TEXT)
    assert fake.keys == ["Bearer secret", "Bearer of a file"]
    assert "temperature" not in fake.requests[1] and fake.requests[1]["max_completion_tokens"] == 2048


def test_no_log_and_no_error_holds_the_key_or_the_text(
    fake: FakeLLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "topsecret")
    caplog.set_level(logging.INFO)
    for fault in (Fault(500, "{}"), Fault(401, '{"error": "topsecret"}'), Fault(content="机密漏了"), Fault(drop=True)):
        fake.script(fault)
        (answer,) = answers(settings(fake.url, endpoint={"retries": 1}), "机密泵")
        assert "机密" not in repr(answer)
    assert "topsecret" not in caplog.text and "机密" not in caplog.text


def test_the_response_format_falls_to_what_the_endpoint_takes_and_stays_there(fake: FakeLLM, tmp_path: Path) -> None:
    fake.script(Fault(rejects=("json_schema", "json_object")))
    told = settings(fake.url, store=tmp_path / "s")

    async def two(bridge: Bridge) -> list[Answer]:
        return [await bridge.answer(PROMPT, text, Mode.WAIT) for text in (TEXT, "买泵")]

    assert with_bridge(told, two) == [FRESH, FRESH]
    formats = [(request.get("response_format") or {}).get("type") for request in fake.requests]
    assert formats == ["json_schema", "json_object", None, None]
    assert answers(told, TEXT, "买泵") == [CACHED, CACHED] and len(fake.requests) == 4


def test_a_schema_holds_the_types_and_asks_for_an_object(fake: FakeLLM) -> None:
    assert answers(settings(fake.url), TEXT) == [FRESH]
    (asked,) = fake.requests
    item = asked["response_format"]["json_schema"]["schema"]["properties"]["entities"]["items"]
    assert item["properties"]["L"]["enum"] == ["EQUIP"]
    assert "entities" in asked["messages"][0]["content"] and asked["messages"][2]["content"] == '{"entities": []}'


def test_retries_have_the_last_word_of_retry_after(fake: FakeLLM) -> None:
    fake.script(Fault(429, "{}", headers={"Retry-After": "0.3"}), then=Fault())
    begin = time.perf_counter()
    assert answers(settings(fake.url, endpoint={"retries": 1}), TEXT) == [FRESH]
    assert time.perf_counter() - begin >= 0.3 and len(fake.requests) == 2


def test_an_endpoint_that_asks_for_more_time_than_there_is_is_not_asked_again(fake: FakeLLM) -> None:
    fake.script(Fault(429, "{}", headers={"Retry-After": "60"}))
    told = settings(fake.url, endpoint={"retries": 5})

    async def two(bridge: Bridge) -> list[Answer]:
        return [await bridge.answer(PROMPT, text, Mode.WAIT, 5) for text in (TEXT, "买泵")]

    begin = time.perf_counter()
    assert with_bridge(told, two) == [absent(Reason.RATE_LIMITED)] * 2
    assert len(fake.requests) == 1 and time.perf_counter() - begin < 5


def test_the_next_endpoint_answers_and_its_answer_is_found_again(fake: FakeLLM, tmp_path: Path) -> None:
    with FakeLLM(fault=Fault(503, "{}")) as broken:
        told = settings(broken.url, fake.url, store=tmp_path / "s")
        assert answers(told, TEXT) == [FRESH] and len(broken.requests) == 1
        assert answers(told, TEXT) == [CACHED] and len(broken.requests) == 1
        assert answers(settings(fake.url, store=tmp_path / "s"), TEXT) == [CACHED]
        broken.script(Fault(content="?"))
        assert answers(told, "买泵") == [FRESH] and len(fake.requests) == 2


def test_hedging_asks_the_next_when_the_first_is_slow(fake: FakeLLM) -> None:
    with FakeLLM(fault=Fault(delay_s=HANGS_S)) as slow:
        told = settings(slow.url, fake.url, endpoint={"timeout_s": 1})
        assert answers(told, TEXT, timeout_s=0.5) == [absent(Reason.TIMEOUT)]
        assert answers(told.model_copy(update={"hedge_after_s": 0.1}), TEXT, timeout_s=0.5) == [FRESH]


def test_a_breaker_leaves_a_dead_endpoint_alone_then_probes_it(fake: FakeLLM) -> None:
    fake.script(Fault(500, "{}"))
    told = settings(fake.url, breaker={"failures": 2, "open_s": 0.3})

    async def use(bridge: Bridge) -> None:
        async def ask() -> Reason | None:
            return (await bridge.answer(PROMPT, TEXT, Mode.WAIT)).reason

        assert [await ask() for _ in range(4)] == [Reason.UNAVAILABLE] * 2 + [Reason.BREAKER_OPEN] * 2
        assert len(fake.requests) == 2 and bridge.metrics.value("breaker_state", endpoint="0") == 2
        fake.script(Fault())
        await asyncio.sleep(0.35)
        assert bridge.metrics.value("breaker_state", endpoint="0") == 1
        assert await bridge.answer(PROMPT, TEXT, Mode.WAIT) == FRESH
        assert bridge.metrics.value("breaker_state", endpoint="0") == 0

    with_bridge(told, use)


def test_modes_and_demonstrations(fake: FakeLLM) -> None:
    assert answers(settings(fake.url), TEXT, mode=Mode.OFF) == [absent(Reason.OFF)]
    assert answers(settings(fake.url), TEXT, mode=Mode.CACHED_ONLY) == [absent(Reason.NOT_CACHED)]
    assert answers(settings(fake.url), "示例文本") == [absent(Reason.DEMONSTRATION)]
    assert answers(settings(), TEXT) == [absent(Reason.NOT_CONFIGURED)]
    assert fake.requests == []


def test_background_answers_at_once_and_the_next_time_with_the_llm(fake: FakeLLM, tmp_path: Path) -> None:
    fake.script(Fault(delay_s=0.3))
    told = settings(fake.url, store=tmp_path / "s", limits={"background_queue": 1})

    async def use(bridge: Bridge) -> list[Answer]:
        begin = time.perf_counter()
        found = [await bridge.answer(PROMPT, text, Mode.BACKGROUND) for text in (TEXT, "买泵")]
        assert time.perf_counter() - begin < 0.3
        return found

    assert with_bridge(told, use) == [absent(Reason.BACKGROUND), absent(Reason.BUSY)]
    assert answers(told, TEXT, mode=Mode.BACKGROUND) == [CACHED] and len(fake.requests) == 1


def test_when_uncertain_asks_only_below_the_threshold_and_reports_the_share(fake: FakeLLM) -> None:
    async def use(bridge: Bridge) -> None:
        async def certain() -> float:
            return 0.9

        async def uncertain() -> float:
            return 0.3

        async def unexpected() -> float:
            raise AssertionError("a remembered answer needs no confidence")

        mode = Mode.WHEN_UNCERTAIN
        assert await bridge.answer(PROMPT, TEXT, mode, None, certain) == absent(Reason.CERTAIN)
        assert fake.requests == []
        assert await bridge.answer(PROMPT, TEXT, mode, None, uncertain) == FRESH
        assert await bridge.answer(PROMPT, TEXT, mode, None, unexpected) == CACHED
        assert bridge.metrics.share_asked() == "1 of 3 texts (33.3 %)"

    with_bridge(settings(fake.url, threshold=0.8), use)


def test_waiters_that_give_up_do_not_cancel_it_for_the_rest(fake: FakeLLM) -> None:
    fake.script(Fault(delay_s=0.5))

    async def use(bridge: Bridge) -> None:
        cancelled = asyncio.create_task(bridge.answer(PROMPT, TEXT, Mode.WAIT))
        hasty = asyncio.create_task(bridge.answer(PROMPT, TEXT, Mode.WAIT, 0.1))
        patient = asyncio.create_task(bridge.answer(PROMPT, TEXT, Mode.WAIT, 5))
        await asyncio.sleep(0.05)
        cancelled.cancel()
        assert await hasty == absent(Reason.TIMEOUT)
        assert await patient == FRESH

    with_bridge(settings(fake.url), use)
    assert len(fake.requests) == 1


def test_a_patient_waiter_lets_retries_go_on_that_a_hasty_one_began(fake: FakeLLM) -> None:
    fake.script(Fault(503, "{}", headers={"Retry-After": "0.4"}), then=Fault())

    async def use(bridge: Bridge) -> None:
        patient = asyncio.create_task(bridge.answer(PROMPT, TEXT, Mode.WAIT, 5))
        assert await bridge.answer(PROMPT, TEXT, Mode.WAIT, 0.2) == absent(Reason.TIMEOUT)
        assert await patient == FRESH

    with_bridge(settings(fake.url, endpoint={"retries": 1}), use)


def test_recorded_answers_serve_where_the_model_has_none(fake: FakeLLM, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "s"))
    store.put([exchange.with_tags(exchange.recorded(PROMPT, TEXT, '[{"W": "泵", "L": "EQUIP"}]'))])
    store.put([exchange.with_tags(exchange.recorded(PROMPT, "买泵", "?"))])
    store.close()
    assert answers(settings(fake.url, store=tmp_path / "s"), TEXT) == [CACHED] and fake.requests == []
    assert answers(settings(store=tmp_path / "s"), "买泵") == [absent(Reason.UNPARSABLE)]
    assert answers(settings(fake.url, store=tmp_path / "s"), "买泵") == [FRESH]


def test_a_store_that_breaks_costs_the_memory_not_the_answer_unless_money_must_be_counted(
    fake: FakeLLM, tmp_path: Path
) -> None:
    async def broken(**limits: int) -> Answer:
        store = SQLiteStore(tmp_path / f"s{len(limits)}")
        for table in ("answers", "claims", "counters"):
            store._writer.execute(f"DROP TABLE {table}")
        bridge = Bridge(settings(fake.url, limits=limits), store)
        try:
            return await bridge.answer(PROMPT, TEXT, Mode.WAIT)
        finally:
            await bridge.close()

    assert asyncio.run(broken()) == FRESH
    assert asyncio.run(broken(calls_per_day=10)) == absent(Reason.STORE) and len(fake.requests) == 1


def test_a_fault_of_ours_is_an_absent_answer_too(
    fake: FakeLLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(self: Questions, prompt: Prompt, text: str) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(Questions, "about", explode)
    assert answers(settings(fake.url), "机密") == [absent(Reason.UNAVAILABLE)]
    assert "RuntimeError" in caplog.text and "机密" not in caplog.text


def test_an_answer_says_when_the_llm_gave_it_and_a_recording_does_not_know(fake: FakeLLM, tmp_path: Path) -> None:
    told, before = settings(fake.url, store=tmp_path / "s"), time.time()
    (fresh,) = answers(told, TEXT)
    (cached,) = answers(told, TEXT)
    assert before <= fresh.answered <= time.time() and cached.answered == fresh.answered
    store = open_store(str(tmp_path / "recorded"))
    store.put([exchange.with_tags(exchange.recorded(PROMPT, TEXT, '[{"W": "泵", "L": "EQUIP"}]'))])
    store.close()
    (recorded,) = answers(settings(fake.url, store=tmp_path / "recorded"), TEXT)
    assert recorded.status == "cached" and recorded.answered == 0
