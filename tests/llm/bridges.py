"""Bridges for tests: short prompts, short patience."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from smallm.documents import Span
from smallm.llm.bridge import Answer, Bridge
from smallm.llm.prompt import Demonstration, EntityType, Prompt
from smallm.llm.settings import BridgeSettings, Mode
from smallm.llm.store import Record, open_store

PROMPT = Prompt("维修", (EntityType("EQUIP"),), (Demonstration("示例文本", "[]"),))
PUMP = [Span(1, 2, "EQUIP")]
TEXT = "换泵"
T = TypeVar("T")


def settings(*urls: str, store: object = "", endpoint: dict[str, Any] | None = None, **others: Any) -> BridgeSettings:
    """Settings for endpoints at `urls`, with `endpoint` told to each."""
    endpoints = [{"url": url, "model": "m", "timeout_s": 5, "retries": 0} | (endpoint or {}) for url in urls]
    return BridgeSettings.model_validate({"store": str(store), "endpoint": endpoints, **others})


@asynccontextmanager
async def bridging(told: BridgeSettings) -> AsyncIterator[Bridge]:
    bridge = Bridge(told)
    try:
        yield bridge
    finally:
        await bridge.close()


def with_bridge(told: BridgeSettings, use: Callable[[Bridge], Awaitable[T]]) -> T:
    """What `use` returns, in an event loop of its own."""

    async def go() -> T:
        async with bridging(told) as bridge:
            return await use(bridge)

    return asyncio.run(go())


def answers(told: BridgeSettings, *texts: str, mode: Mode = Mode.WAIT, timeout_s: float | None = None) -> list[Answer]:
    """The answers to `texts`, all asked at once."""

    async def use(bridge: Bridge) -> list[Answer]:
        return list(await asyncio.gather(*(bridge.answer(PROMPT, text, mode, timeout_s) for text in texts)))

    return with_bridge(told, use)


def stored(path: Path | str) -> list[Record]:
    """All that a store holds."""
    store = open_store(str(path))
    try:
        return list(store.scan())
    finally:
        store.close()
