"""The bridge against a real `openai` client and a loopback server that misbehaves."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from smallm.documents import Span
from smallm.llm.bridge import CONCURRENT, Answer, Bridge, Mode, Status
from smallm.llm.client import KEY_VARIABLE, Endpoint, LLMClient
from smallm.llm.prompt import Demonstration, EntityType, Prompt
from smallm.llm.reasons import Reason
from smallm.llm.request import RECORDED, Model, ask
from smallm.llm.store import AnswerStore
from tests.fake_llm import FakeLLM, Fault

PROMPT = Prompt("维修", (EntityType("EQUIP"),), (Demonstration("示例文本", "[]"),))
PUMP = [Span(1, 2, "EQUIP")]


def reply(text: str) -> str:
    return json.dumps([{"W": "泵", "L": "EQUIP"}] if "泵" in text else [])


def run(fake: FakeLLM, store: Path | None, *asked: tuple[str, Mode], timeout_s: float = 5.0) -> list[Answer]:
    async def all_at_once() -> list[Answer]:
        client = LLMClient(Endpoint(fake.url, timeout_s, retries=0))
        bridge = Bridge([Model(fake.url, "m"), RECORDED], AnswerStore(store) if store else None, client)
        try:
            return list(await asyncio.gather(*(bridge.answer(PROMPT, text, mode) for text, mode in asked)))
        finally:
            await bridge.close()

    return asyncio.run(all_at_once())


def test_fresh_then_cached_and_one_question_for_equal_ones(tmp_path: Path) -> None:
    with FakeLLM(reply, Fault(delay_s=0.2)) as fake:
        fresh = run(fake, tmp_path / "s", ("换泵", Mode.WAIT), ("换泵", Mode.WAIT), ("换泵", Mode.WAIT))
        assert [answer.status for answer in fresh] == [Status.FRESH] * 3
        assert len(fake.requests) == 1
        cached = run(fake, tmp_path / "s", ("换泵", Mode.CACHED_ONLY))
        assert cached == [Answer(Status.CACHED, PUMP)] and len(fake.requests) == 1


def test_many_texts_at_once_are_no_burst() -> None:
    with FakeLLM(reply, Fault(delay_s=0.1)) as fake:
        answers = run(fake, None, *((f"换泵{index}", Mode.WAIT) for index in range(3 * CONCURRENT)))
        assert {answer.status for answer in answers} == {Status.FRESH}
        assert 1 < fake.peak <= CONCURRENT


def test_what_is_asked_is_the_prompt_at_temperature_zero_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    with FakeLLM(reply) as fake:
        run(fake, None, ("换泵", Mode.WAIT))
        assert fake.requests[0]["messages"] == PROMPT.messages("换泵")
        assert fake.requests[0]["temperature"] == 0 and fake.keys == ["Bearer secret"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(status=401, body="{}"), Reason.UNAUTHORIZED),
        (Fault(status=403, body="{}"), Reason.UNAUTHORIZED),
        (Fault(status=429, body="{}"), Reason.RATE_LIMITED),
        (Fault(status=400, body="{}"), Reason.REFUSED),
        (Fault(status=500, body="{}"), Reason.UNAVAILABLE),
        (Fault(drop=True), Reason.UNAVAILABLE),
        (Fault(delay_s=1.5), Reason.TIMEOUT),
        (Fault(body="<html>gateway</html>"), Reason.UNAVAILABLE),
        (Fault(body="<html>gateway</html>", content_type="text/html"), Reason.UNAVAILABLE),
        (Fault(body='{"choices": []}'), Reason.REFUSED),
    ],
)
def test_every_fault_is_an_absent_answer_with_its_reason_and_nothing_is_remembered(
    tmp_path: Path, fault: Fault, reason: Reason
) -> None:
    with FakeLLM(reply, fault) as fake:
        (answer,) = run(fake, tmp_path / "s", ("换泵", Mode.WAIT), timeout_s=0.5)
        assert (answer.status, answer.spans, answer.reason) == (Status.ABSENT, None, reason)
        fake.fault = Fault()
        assert run(fake, tmp_path / "s", ("换泵", Mode.WAIT))[0].status is Status.FRESH


def test_a_chat_instead_of_json_is_absent_not_empty(tmp_path: Path) -> None:
    with FakeLLM(lambda text: "我不知道") as fake:
        (answer,) = run(fake, tmp_path / "s", ("换泵", Mode.WAIT))
        assert answer.reason is Reason.UNPARSABLE and answer.spans is None


def test_modes_and_demonstrations_ask_nothing() -> None:
    with FakeLLM(reply) as fake:
        answers = run(fake, None, ("换泵", Mode.OFF), ("换泵", Mode.CACHED_ONLY), ("示例文本", Mode.WAIT))
        assert [answer.reason for answer in answers] == [Reason.OFF, Reason.NOT_CACHED, Reason.DEMONSTRATION]
        assert fake.requests == []


def test_recorded_answers_serve_where_the_model_has_none(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "s")
    store.add_replies([(ask(RECORDED, PROMPT, "换泵"), reply("换泵"))], "维修")
    store.close()
    with FakeLLM(reply) as fake:
        assert run(fake, tmp_path / "s", ("换泵", Mode.WAIT)) == [Answer(Status.CACHED, PUMP)]
        assert fake.requests == []


def test_a_store_that_breaks_costs_the_memory_not_the_answer(tmp_path: Path) -> None:
    async def broken(fake: FakeLLM) -> Answer:
        store = AnswerStore(tmp_path / "s")
        store._db.execute("DROP TABLE replies")
        bridge = Bridge([Model(fake.url, "m")], store, LLMClient(Endpoint(fake.url, 5, 0)))
        return await bridge.answer(PROMPT, "换泵", Mode.WAIT)

    with FakeLLM(reply) as fake:
        assert asyncio.run(broken(fake)) == Answer(Status.FRESH, PUMP)
