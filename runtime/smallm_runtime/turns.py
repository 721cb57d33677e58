"""Fairness: bulk work enters the queue a little at a time, callers in turn, so that a single text always finds room."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

BULK_TEXTS = 64  # of streams and batches queued at a time: about two rounds


class Turns:
    """At most `slots` pieces of bulk work at a time. Callers with work waiting take turns, however much each has.

    Belongs to one event loop.
    """

    def __init__(self, slots: int = BULK_TEXTS) -> None:
        self._free = slots
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}  # in the order of their turns

    @asynccontextmanager
    async def take(self, caller: Hashable) -> AsyncIterator[None]:
        """Wait for a slot; it is given back when the block ends."""
        if self._free:  # then nobody waits
            self._free -= 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(caller, deque()).append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # given at the same moment
                    self._give()
                raise
        try:
            yield
        finally:
            self._give()

    def _give(self) -> None:
        while self._waiting:
            caller, queue = next(iter(self._waiting.items()))
            del self._waiting[caller]
            turn = queue.popleft()
            if queue:
                self._waiting[caller] = queue  # the last now
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
