from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from smallm_runtime import batcher as batcher_module
from smallm_runtime.admission import Limits
from smallm_runtime.batcher import Batcher, Outcome
from smallm_runtime.engine import Item, Work
from smallm_runtime.heads import Recognized
from smallm_runtime.pace import Pace

from smallm.documents import Span
from smallm.errors import DeadlineError, OverloadedError, UnavailableError
from smallm.fusion import Entity, Source

SMALL = Limits(round_tokens=12, cache_bytes=0)


class Engine:
    """Records its rounds, blocks until released, fails on a poisoned text; a long text takes a round a chunk."""

    def __init__(self, chunk: int = 12) -> None:
        self.rounds: list[list[str]] = []
        self.release, self.chunk = threading.Event(), chunk
        self.seconds_a_token = 0.0
        self._left: dict[int, int] = {}

    def step(self, works: Sequence[Work]) -> None:
        assert self.release.wait(10)
        texts = [work.item.text for work in works]
        self.rounds.append(texts)
        time.sleep(self.seconds_a_token * sum(min(len(text), self.chunk) + 2 for text in texts))
        if "poison" in texts:
            raise ValueError("poison")
        for work in works:
            left = self._left.get(id(work), len(work.item.text)) - self.chunk
            self._left[id(work)] = left
            if left <= 0:
                work.result = Recognized([Entity(Span(0, 1, "A"), 1.0, Source.LOCAL)], 0.5)


def run(test: Callable[[Engine, Callable[..., Batcher]], Awaitable[None]]) -> Engine:
    """Run `test` with an engine and a maker of batchers before it, which are closed in the end."""
    engine = Engine()

    async def go() -> None:
        made: list[Batcher] = []

        def make(limits: Limits = SMALL, **options: Any) -> Batcher:
            made.append(Batcher(engine.step, limits, **options))
            return made[-1]

        await test(engine, make)
        engine.release.set()
        for one in made:
            await asyncio.wait_for(one.close(), 10)

    asyncio.run(go())
    return engine


async def queued(batcher: Batcher, *texts: str, timeout_s: float | None = None) -> list[asyncio.Task[Outcome]]:
    tasks = [asyncio.create_task(batcher.submit(Item(text), timeout_s)) for text in texts]
    await asyncio.sleep(0.02)
    return tasks


def test_rounds_fill_up_to_the_token_budget_and_no_further() -> None:
    async def test(engine: Engine, make: Callable[..., Batcher]) -> None:
        batcher = make()
        tasks = await queued(batcher, "first") + await queued(batcher, *"abcde", "seven77", "x")
        engine.release.set()
        outcomes = await asyncio.gather(*tasks)
        assert engine.rounds == [["first"], ["a", "b", "c", "d"], ["e", "seven77"], ["x"]]
        assert [outcome.batch_size for outcome in outcomes] == [1, 4, 4, 4, 4, 2, 2, 1]

    run(test)


def test_who_has_less_time_left_comes_first_and_nobody_waits_for_ever() -> None:
    async def test(engine: Engine, make: Callable[..., Batcher]) -> None:
        batcher = make(replace(SMALL, round_tokens=4))
        tasks = await queued(batcher, "now")
        tasks += (
            await queued(batcher, "no")
            + await queued(batcher, "b2", timeout_s=4)
            + await queued(batcher, "a1", timeout_s=3)
        )
        tasks += await queued(batcher, "ok", timeout_s=3600)  # far away counts as none
        engine.release.set()
        await asyncio.gather(*tasks)
        assert engine.rounds[1:] == [["a1"], ["b2"], ["no"], ["ok"]]

    run(test)


def test_a_poisoned_text_fails_alone() -> None:
    async def test(engine: Engine, make: Callable[..., Batcher]) -> None:
        batcher = make(replace(SMALL, round_tokens=100))
        tasks = await queued(batcher, "first", "a", "poison", "b")
        engine.release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(result, ValueError) for result in results] == [False, False, True, False]
        assert batcher.counts.failed == 1 and batcher.healthy

    run(test)


def test_a_cancelled_caller_costs_nothing_makes_room_and_harms_nobody() -> None:
    async def test(engine: Engine, make: Callable[..., Batcher]) -> None:
        batcher = make(replace(SMALL, queue_texts=2))
        tasks = await queued(batcher, "first") + await queued(batcher, "gone", "stays")
        shared = await queued(batcher, "stays")
        for task in (tasks[1], shared[0]):
            task.cancel()
        await asyncio.sleep(0.02)
        tasks += await queued(batcher, "new")
        engine.release.set()
        await asyncio.gather(tasks[0], tasks[2], tasks[3])
        assert engine.rounds == [["first"], ["stays", "new"]] and batcher.counts.cancelled == 1

    run(test)


def test_an_expired_text_is_dropped_before_it_costs_anything() -> None:
    async def test(engine: Engine, make: Callable[..., Batcher]) -> None:
        batcher = make()
        tasks = await queued(batcher, "first") + await queued(batcher, "late", timeout_s=0.05)
        await asyncio.sleep(0.1)
        engine.release.set()
        with pytest.raises(DeadlineError):
            await tasks[1]
        assert engine.rounds == [["first"]] and batcher.counts.expired == 1

    run(test)


@pytest.mark.parametrize("limits", [replace(SMALL, queue_texts=2), replace(SMALL, queue_tokens=8)])
def test_a_full_queue_says_so_at_once_and_closing_finishes_what_is_queued(limits: Limits) -> None:
    async def test(engine: Engine, make: Callable[..., Batcher]) -> None:
        batcher = make(limits)
        tasks = await queued(batcher, "first") + await queued(batcher, "a", "b")
        with pytest.raises(OverloadedError) as caught:
            await batcher.submit(Item("ccc"))
        assert caught.value.retry_after_s > 0 and batcher.queued == (2, 6)
        engine.release.set()
        await batcher.close()
        assert all(task.done() for task in tasks) and engine.rounds[-1] == ["a", "b"]
        with pytest.raises(UnavailableError):
            await batcher.submit(Item("late"))

    run(test)


def test_what_cannot_be_in_time_at_the_measured_pace_is_refused_at_once() -> None:
    async def test(engine: Engine, make: Callable[..., Batcher]) -> None:
        batcher = make(replace(SMALL, queue_tokens=1000))
        for tokens in (4, 7, 10) * 4:
            batcher._pace.observe(tokens, 0.05 * tokens)
        tasks = await queued(batcher, "running") + await queued(batcher, *(f"{number:08d}" for number in range(14)))
        for timeout_s, error in ((6.0, OverloadedError), (0.3, DeadlineError)):
            begin = time.monotonic()
            with pytest.raises(error):
                await batcher.submit(Item("z" * 8), timeout_s)
            assert time.monotonic() - begin < 0.2
        assert batcher.counts.refused == 2
        tasks += await queued(batcher, "z" * 8, timeout_s=60)
        engine.release.set()
        await asyncio.gather(*tasks)

    run(test)


def test_a_deadline_that_is_near_gets_in_where_the_queue_can_wait() -> None:
    async def test(engine: Engine, make: Callable[..., Batcher]) -> None:
        engine.release.set()
        engine.seconds_a_token = 0.005
        batcher = make(replace(SMALL, queue_tokens=1000))
        for _ in range(8):
            await batcher.submit(Item("x" * 8))
        engine.release.clear()
        tasks = await queued(batcher, "y" * 10) + await queued(batcher, *(f"{number:08d}" for number in range(10)))
        tasks += await queued(batcher, "z" * 8, timeout_s=0.4)
        engine.release.set()
        await asyncio.gather(*tasks)
        assert engine.rounds[9][0] == "z" * 8

    run(test)


def test_equal_texts_in_flight_are_computed_once_and_different_answers_are_not_mixed() -> None:
    async def test(engine: Engine, make: Callable[..., Batcher]) -> None:
        batcher = make(replace(SMALL, round_tokens=100))
        tasks = await queued(batcher, "first") + await queued(batcher, "same", "same", "same")
        for item in (Item("same", answer=[]), Item("same", answer=[Span(0, 1, "A")])):
            tasks.append(asyncio.create_task(batcher.submit(item)))
        await asyncio.sleep(0.02)
        engine.release.set()
        outcomes = await asyncio.gather(*tasks)
        assert engine.rounds == [["first"], ["same"] * 3] and batcher.counts.joined == 2
        assert outcomes[-1].recognized.confidence == 0.5

    run(test)


def test_an_answer_is_remembered_for_its_text_llm_part_and_domain_only() -> None:
    async def test(engine: Engine, make: Callable[..., Batcher]) -> None:
        engine.release.set()
        batcher = make(replace(SMALL, cache_bytes=1 << 20))
        first = await batcher.submit(Item("a"))
        again = await batcher.submit(Item("a"))
        assert again.recognized is first.recognized and (again.batch_size, again.model_s) == (0, 0)
        assert batcher.counts.remembered == 1 and batcher.remembered[0] == 1
        for item in (Item("b"), Item("a", answer=[]), Item("a", domain="other")):
            await batcher.submit(item)
        assert len(engine.rounds) == 4

    run(test)


def test_what_is_remembered_stays_within_its_bytes_and_can_be_switched_off() -> None:
    async def test(engine: Engine, make: Callable[..., Batcher]) -> None:
        engine.release.set()
        batcher, without = make(replace(SMALL, cache_bytes=20_000)), make(SMALL)
        for number in range(60):
            await batcher.submit(Item(f"{number:06d}"))
        kept, size = batcher.remembered
        assert 10 < kept < 60 and size <= 20_000
        await batcher.submit(Item("x" * 1000))  # larger than its share
        assert batcher.remembered == (kept, size)
        for _ in range(2):
            await without.submit(Item("a"))
        assert engine.rounds[-2:] == [["a"], ["a"]] and without.remembered == (0, 0)

    run(test)


def test_a_large_document_and_small_texts_take_turns() -> None:
    async def test(engine: Engine, make: Callable[..., Batcher]) -> None:
        batcher = make()
        large, other = "L" * 120, "M" * 36
        tasks = await queued(batcher, large) + await queued(batcher, other)
        tasks += await queued(batcher, *(f"{number:08d}" for number in range(8)))
        engine.release.set()
        outcomes = await asyncio.gather(*tasks)
        kinds = ["L" if one == [large] else "M" if one == [other] else "s" for one in engine.rounds]
        assert "".join(kinds).startswith("LsMsLsMsLsMsLsLs") and kinds.count("L") == 10 and kinds.count("M") == 3
        assert outcomes[0].batch_size == 1

    run(test)


def test_a_large_document_may_be_given_up_half_way_and_does_not_fill_the_queue() -> None:
    async def test(engine: Engine, make: Callable[..., Batcher]) -> None:
        batcher = make(replace(SMALL, long_tokens=200, queue_tokens=10))
        (large,) = await queued(batcher, "L" * 500)
        (waiting,) = await queued(batcher, "M" * 150)
        (small,) = await queued(batcher, "s")
        with pytest.raises(OverloadedError):
            await batcher.submit(Item("N" * 100))
        large.cancel()
        engine.release.set()
        await asyncio.gather(waiting, small)
        assert sum(one == ["L" * 500] for one in engine.rounds) == 1

    run(test)


def test_memory_is_given_back_at_rest_after_a_large_round_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher_module, "REST_S", 0.05)

    async def test(engine: Engine, make: Callable[..., Batcher]) -> None:
        engine.release.set()
        tidied: list[str] = []
        batcher = make(replace(SMALL, round_tokens=2000), tidy=lambda: tidied.append(threading.current_thread().name))
        await batcher.submit(Item("small"))
        await asyncio.sleep(0.15)
        assert not tidied
        await batcher.submit(Item("L" * 600))
        for number in range(4):
            await asyncio.sleep(0.02)
            await batcher.submit(Item(f"busy{number}"))
        assert not tidied
        await asyncio.sleep(0.3)
        assert len(tidied) == 1 and tidied[0].startswith("engine")

    run(test)


def test_two_rounds_at_once_where_asked_for() -> None:
    async def test(engine: Engine, make: Callable[..., Batcher]) -> None:
        batcher = make(replace(SMALL, parallel=2, round_tokens=4))
        tasks = await queued(batcher, "a", "b", "c")
        assert batcher.queued[0] == 1
        engine.release.set()
        await asyncio.gather(*tasks)

    run(test)


@pytest.mark.parametrize("kind", ["hangs", "dies", "breaks"])
def test_a_crash_is_noticed_and_leaves_nobody_waiting(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(engine: Engine, make: Callable[..., Batcher]) -> None:
        noticed: list[BaseException] = []
        batcher = make(crashed=noticed.append)
        if kind == "hangs":
            monkeypatch.setattr(batcher_module, "STALL_S", 0.1)
        elif kind == "dies":

            def exit_(works: object) -> None:
                assert engine.release.wait(5)
                raise SystemExit(1)

            monkeypatch.setattr(batcher, "_step", exit_)
        else:
            monkeypatch.setattr(batcher, "_finished", None)
        tasks = await queued(batcher, "running", "waiting-long", "waiting")
        if kind != "hangs":
            engine.release.set()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert all(isinstance(result, UnavailableError) for result in results)
        assert len(noticed) == 1 and not batcher.healthy
        with pytest.raises(UnavailableError):
            await batcher.submit(Item("more"))

    run(test)


def test_nobody_is_lost_in_a_storm() -> None:
    """Callers of all kinds at random: each gets its own answer, a refusal or its cancellation, and nothing stays."""

    async def test(engine: Engine, make: Callable[..., Batcher]) -> None:
        engine.release.set()
        engine.seconds_a_token = 1e-5
        batcher = make(replace(SMALL, queue_tokens=400, queue_texts=30, parallel=2, cache_bytes=4000))
        chance = random.Random(0)

        async def caller(number: int) -> str:
            await asyncio.sleep(chance.random() / 40)  # more than fit into the queue, on any machine
            text = chance.choice(["poison", "same", "x" * 40, f"{chance.randrange(10**7):07d}"])
            call = asyncio.create_task(batcher.submit(Item(text), chance.choice([None, 0.005, 1.0])))
            if chance.random() < 0.2:
                await asyncio.sleep(chance.random() / 100)
                call.cancel()
            try:
                await call
                return "done" if text != "poison" else "wrong"
            except ValueError:
                return "poisoned" if text == "poison" else "wrong"
            except (OverloadedError, DeadlineError):
                return "refused"
            except asyncio.CancelledError:
                return "cancelled"

        ends = await asyncio.wait_for(asyncio.gather(*(caller(number) for number in range(1500))), 30)
        assert "wrong" not in ends and {"done", "poisoned", "refused", "cancelled"} <= set(ends)
        await batcher.close()
        assert batcher.queued == (0, 0) and not batcher._flights

    run(test)


def test_the_pace_is_learnt() -> None:
    pace = Pace()
    assert not pace.known and pace.seconds(1000) == 0
    chance = random.Random(0)
    for _ in range(100):
        tokens = chance.randrange(10, 2000)
        pace.observe(tokens, 0.003 + 0.0001 * tokens)
    assert pace.seconds(0) == pytest.approx(0.003, rel=0.05)
    assert pace.seconds(5000, 3) == pytest.approx(0.509, rel=0.05)
    for _ in range(100):
        pace.observe(100, 1.0)  # of one size: the mean, whatever was before
    assert pace.seconds(100) == pytest.approx(1.0, rel=0.05)
