"""Budgets and rates, the breaker's clock, what a call is thought to use."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from smallm.errors import LLMError
from smallm.llm.breaker import Breaker, State
from smallm.llm.bridge import Status, absent
from smallm.llm.client import retry_after
from smallm.llm.limits import Budget, Usage, estimate, text_tokens
from smallm.llm.reasons import Reason
from smallm.llm.request import Model, ask
from smallm.llm.settings import EndpointSettings, Limits
from smallm.llm.sqlite_store import SQLiteStore
from smallm.llm.store import open_store
from tests.fake_llm import FakeLLM
from tests.llm.bridges import PROMPT, answers, settings


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("limits", [Limits(calls_per_day=2), Limits(tokens_per_day=250), Limits(money_per_day=0.00025)])
def test_a_day_s_budget_ends_and_the_next_day_begins(limits: Limits) -> None:
    clock = Clock()
    budget = Budget(limits, SQLiteStore(clock=clock), clock)
    for _ in range(2):
        budget.reserve(Usage(90, 10), 100)
    with pytest.raises(LLMError) as caught:
        budget.reserve(Usage(90, 10), 100)
    assert caught.value.reason == Reason.OVER_BUDGET and budget.spent_today() == (2, 200, 0.0002)
    budget.settle(Usage(90, 10), Usage(0, 0), 100, 0)
    assert budget.spent_today() == (2, 100, 0.0001)
    clock.now += 86_400
    budget.reserve(Usage(90, 10), 100)


@pytest.mark.parametrize("limits", [Limits(requests_per_minute=4), Limits(tokens_per_minute=400)])
def test_a_minute_s_limit_slides(limits: Limits) -> None:
    clock = Clock()
    clock.now -= clock.now % 60
    budget = Budget(limits, SQLiteStore(clock=clock), clock)

    def granted() -> int:
        count = 0
        while True:
            try:
                budget.reserve(Usage(90, 10), 0)
            except LLMError as error:
                assert error.reason == Reason.RATE_LIMITED
                return count
            count += 1

    clock.now += 59
    assert granted() == 4
    clock.now += 2  # another minute by the clock, the same sixty seconds
    assert granted() == 0
    clock.now += 29
    assert granted() == 2
    clock.now += 60
    assert granted() >= 2


def test_over_budget_is_a_local_answer_for_every_replica_and_after_a_restart(tmp_path: Path) -> None:
    price = {"input_price": 10, "output_price": 20}
    with FakeLLM() as fake:
        told = settings(fake.url, store=tmp_path / "s", endpoint=price, limits={"calls_per_day": 2})
        first = answers(told, "泵一", "泵二", "泵三")
        assert sorted(str(one.reason or one.status) for one in first) == ["fresh", "fresh", "over_budget"]
        assert answers(told, "泵四") == [absent(Reason.OVER_BUDGET)] and len(fake.requests) == 2
    store = open_store(str(tmp_path / "s"))
    assert Budget(Limits(), store).spent_today() == (2, 220, 0.0024)
    store.close()


def test_what_a_call_really_used_takes_the_place_of_the_estimate(tmp_path: Path) -> None:
    with FakeLLM() as fake:
        told = settings(fake.url, store=tmp_path / "s", limits={"tokens_per_day": 100_000})
        assert [one.status for one in answers(told, "泵一")] == [Status.FRESH]
        store = open_store(str(tmp_path / "s"))
        assert Budget(Limits(), store).spent_today()[:2] == (1, 110)
        store.close()


def test_a_chinese_sentence_is_not_one_token() -> None:
    assert text_tokens("三号循环泵漏油") == 7 and text_tokens("M7N-65") == 2 and text_tokens("") == 0
    usage = estimate(ask(Model("http://x", "m", max_tokens=50), PROMPT, "泵" * 600))
    assert usage.prompt > 600 and usage.completion == 50
    endpoint = EndpointSettings(url="http://x", model="m", input_price=2, output_price=8)
    assert Usage(1_000_000, 500_000).cost(endpoint) == 6_000_000


def test_the_breaker_opens_longer_after_every_failed_probe() -> None:
    clock = Clock()
    breaker = Breaker(2, 10, clock)
    breaker.failed()
    assert breaker.allow() and breaker.state is State.CLOSED
    breaker.failed()
    assert not breaker.allow()
    clock.now += 10
    assert breaker.allow() and not breaker.allow()
    breaker.failed()
    clock.now += 10
    assert not breaker.allow()
    clock.now += 10
    assert breaker.allow()
    breaker.abandoned()
    assert breaker.allow()
    breaker.succeeded()
    assert breaker.state is State.CLOSED and breaker.allow() and breaker.allow()


def test_retry_after_in_seconds_milliseconds_or_as_a_date() -> None:
    assert retry_after({"Retry-After": "2"}) == 2 and retry_after({"retry-after-ms": "1500"}) == 1.5
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    assert 25 < (retry_after({"retry-after": date}) or 0) <= 30
    assert retry_after({"retry-after": "soon"}) is None and retry_after({}) is None
