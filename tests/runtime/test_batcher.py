from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
from smallm_runtime.batcher import Batcher
from smallm_runtime.engine import Item, Recognized

from smallm.errors import OverloadedError


class Engine:
    """Records its batches; blocks until released; fails on a poisoned text."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.release = threading.Event()

    def recognize(self, items: Sequence[Item]) -> list[Recognized]:
        self.release.wait(10)
        self.batches.append([item.text for item in items])
        if any(item.text == "poison" for item in items):
            raise ValueError("poison")
        return [Recognized([]) for _ in items]


async def queued(batcher: Batcher, texts: Sequence[str]) -> list[asyncio.Task[object]]:
    tasks = [asyncio.create_task(batcher.submit(Item(text))) for text in texts]
    await asyncio.sleep(0.05)
    return tasks  # type: ignore[return-value]


def test_what_waits_while_the_engine_is_busy_shares_the_next_batch() -> None:
    async def go() -> None:
        engine = Engine()
        batcher = Batcher(engine.recognize, max_batch=4)
        batcher.start()
        tasks = await queued(batcher, ["first"]) + await queued(batcher, list("abcdef"))
        engine.release.set()
        await asyncio.gather(*tasks)
        await batcher.close()
        assert engine.batches == [["first"], list("abcd"), list("ef")]

    asyncio.run(go())


def test_a_poisoned_text_fails_alone() -> None:
    async def go() -> None:
        engine = Engine()
        batcher = Batcher(engine.recognize)
        batcher.start()
        tasks = await queued(batcher, ["first", "a", "poison", "b"])
        engine.release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await batcher.close()
        assert [isinstance(result, ValueError) for result in results] == [False, False, True, False]

    asyncio.run(go())


def test_a_cancelled_caller_costs_nothing_and_harms_nobody() -> None:
    async def go() -> None:
        engine = Engine()
        batcher = Batcher(engine.recognize)
        batcher.start()
        tasks = await queued(batcher, ["first"]) + await queued(batcher, ["gone", "stays"])
        tasks[1].cancel()
        await asyncio.sleep(0.05)
        engine.release.set()
        await asyncio.gather(tasks[0], tasks[2])
        await batcher.close()
        assert engine.batches == [["first"], ["stays"]]

    asyncio.run(go())


def test_a_full_queue_says_so_at_once_and_closing_finishes_what_is_queued() -> None:
    async def go() -> None:
        engine = Engine()
        batcher = Batcher(engine.recognize, max_queue=2)
        batcher.start()
        tasks = await queued(batcher, ["first"]) + await queued(batcher, ["a", "b"])
        with pytest.raises(OverloadedError) as caught:
            await batcher.submit(Item("c"))
        assert caught.value.retry_after_s > 0
        engine.release.set()
        await batcher.close()
        assert all(task.done() for task in tasks) and engine.batches[-1] == ["a", "b"]

    asyncio.run(go())


def test_no_failure_ends_the_worker_or_leaves_a_caller_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        engine = Engine()
        engine.release.set()
        batcher = Batcher(engine.recognize)
        batcher.start()
        with monkeypatch.context() as patch:
            patch.setattr(batcher, "_run_batch", None)
            with pytest.raises(TypeError):
                await asyncio.wait_for(batcher.submit(Item("a")), 5)
        assert (await batcher.submit(Item("b"))).batch_size == 1
        await batcher.close()

    asyncio.run(go())


def test_closing_waits_for_the_batch_that_is_running() -> None:
    async def go() -> None:
        engine = Engine()
        batcher = Batcher(engine.recognize)
        batcher.start()
        tasks = await queued(batcher, ["running"])
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        engine.release.set()
        await closing
        assert (await asyncio.wait_for(tasks[0], 5)).batch_size == 1  # type: ignore[attr-defined]

    asyncio.run(go())
