from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
from smallm_runtime.batcher import Batcher
from smallm_runtime.engine import Item

from smallm.errors import OverloadedError
from smallm.fusion import Entity


class Engine:
    """Records its batches; blocks until released; fails on a poisoned text."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.release = threading.Event()

    def recognize(self, items: Sequence[Item]) -> list[list[Entity]]:
        self.release.wait(10)
        self.batches.append([item.text for item in items])
        if any(item.text == "poison" for item in items):
            raise ValueError("poison")
        return [[] for _ in items]


async def queued(batcher: Batcher, texts: Sequence[str]) -> list[asyncio.Task[object]]:
    tasks = [asyncio.create_task(batcher.submit(Item(text))) for text in texts]
    await asyncio.sleep(0.05)
    return tasks  # type: ignore[return-value]


def test_what_waits_while_the_engine_is_busy_shares_the_next_batch() -> None:
    async def go() -> None:
        engine = Engine()
        batcher = Batcher(engine.recognize, max_batch=4)
        batcher.start(died=lambda: None)
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
        batcher.start(died=lambda: None)
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
        batcher.start(died=lambda: None)
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
        batcher.start(died=lambda: None)
        tasks = await queued(batcher, ["first"]) + await queued(batcher, ["a", "b"])
        with pytest.raises(OverloadedError) as caught:
            await batcher.submit(Item("c"))
        assert caught.value.retry_after_s > 0
        engine.release.set()
        await batcher.close()
        assert all(task.done() for task in tasks) and engine.batches[-1] == ["a", "b"]

    asyncio.run(go())


def test_a_worker_that_dies_is_noticed() -> None:
    async def go() -> None:
        died = asyncio.Event()
        batcher = Batcher(Engine().recognize)
        batcher._run_batch = None  # type: ignore[method-assign, assignment]
        batcher.start(died=died.set)
        task = (await queued(batcher, ["a"]))[0]
        await asyncio.wait_for(died.wait(), 5)
        task.cancel()

    asyncio.run(go())
