"""What the tests run in processes of their own: `python -m tests.llm.worker WHAT STORE ...`."""

from __future__ import annotations

import asyncio
import sys

from smallm.llm.prompt import EntityType, Prompt
from smallm.llm.request import Model, ask
from smallm.llm.store import Record, open_store

WRITTEN = Prompt("维修", (EntityType("EQUIP"),))
MODEL = Model("http://x", "m")


def record(text: str) -> Record:
    """A record whose every part can be told from its text."""
    padding = "，" * (len(text) % 7 * 100)
    reply = f'[{{"W": "{text}", "L": "EQUIP"}}]{padding}'
    return Record(ask(MODEL, WRITTEN, text).key, "维修", "http://x", "m", text, ("EQUIP",), reply, created=1.0)


def write(store: str, name: str) -> None:
    """Put records for ever; each line printed is one that was committed."""
    opened = open_store(store)
    for number in range(1_000_000):
        one = record(f"{name}号泵{number}")
        opened.put([(one, one.derive())])
        print(one.text, flush=True)


def stampede(store: str, url: str, callers: str) -> None:
    """Ask one text many times at once; print how many had the answer."""
    from smallm.llm.bridge import Bridge  # not for the writers: fifty of them would import the openai client
    from smallm.llm.settings import Mode
    from tests.llm.bridges import PROMPT, TEXT, settings

    async def go() -> int:
        bridge = Bridge(settings(url, store=store))
        try:
            asked = (bridge.answer(PROMPT, TEXT, Mode.WAIT, 20) for _ in range(int(callers)))
            return sum(answer.spans is not None for answer in await asyncio.gather(*asked))
        finally:
            await bridge.close()

    print(asyncio.run(go()), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(*sys.argv[2:])
    else:
        stampede(*sys.argv[2:])
