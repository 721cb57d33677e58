from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from smallm_runtime.server import Settings
from smallm_runtime.turns import BULK_TEXTS, Turns

from smallm.client import Client, Result
from tests.runtime.servers import serving


def test_callers_take_turns_however_much_each_has_and_slots_are_never_exceeded() -> None:
    async def go() -> None:
        turns, order, inside, most = Turns(2), list[str](), 0, 0

        async def work(caller: str) -> None:
            nonlocal inside, most
            async with turns.take(caller):
                inside += 1
                most = max(most, inside)
                order.append(caller)
                await asyncio.sleep(0)
                inside -= 1

        greedy = [work("greedy") for _ in range(50)]
        await asyncio.gather(*greedy, *(work("modest") for _ in range(3)))
        assert most == 2 and len(order) == 53
        assert [position for position, caller in enumerate(order) if caller == "modest"][-1] < 12

    asyncio.run(go())


def test_a_caller_that_gives_up_leaves_its_turn_to_others() -> None:
    async def go() -> None:
        turns = Turns(1)
        held, done = asyncio.Event(), list[str]()

        async def work(caller: str) -> None:
            async with turns.take(caller):
                await held.wait()
                done.append(caller)

        tasks = [asyncio.create_task(work(caller)) for caller in ("first", "gone", "stays", "late")]
        await asyncio.sleep(0)
        tasks[1].cancel()
        held.set()
        tasks[3].cancel()  # about when its turn comes
        await asyncio.gather(*tasks, return_exceptions=True)
        assert done[:2] == ["first", "stays"]
        async with asyncio.timeout(5), turns.take("afterwards"):
            pass

    asyncio.run(go())


def test_single_texts_are_answered_while_streams_keep_the_server_busy(bundle_folder: Path) -> None:
    length = 2 * BULK_TEXTS

    def stream(address: str, name: int) -> int:
        with Client(address) as client:
            texts = ((str(n), f"{name}号泵漏油，更换机械密封，单号{n}") for n in range(length))
            return sum(isinstance(answer, Result) for _, answer in client.recognize_stream(texts, llm_mode="off"))

    with serving(Settings(bundle_folder, threads=1)) as address, ThreadPoolExecutor(4) as threads:
        streams = [threads.submit(stream, address, name) for name in range(4)]
        answered = 0
        with Client(address) as client:
            while not all(one.done() for one in streams):
                client.recognize(f"电机异响，单号{answered}", llm_mode="off")  # never refused
                answered += 1
        assert [one.result() for one in streams] == [length] * 4
    assert answered >= 4  # else they came one a stream, when it had ended
