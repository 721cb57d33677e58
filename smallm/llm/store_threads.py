"""Threads for a store's calls, which may fail or hang: nobody waits long for it, and not again and again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from smallm.errors import StoreError

_log = logging.getLogger(__name__)
T = TypeVar("T")


class StoreThreads:
    """Calls into a store, each given `patience_s`. After one that failed, none is made for `pause_s`.

    A call given up is not undone: a write that waits for another process's may still come about.
    """

    def __init__(self, name: str, threads: int, patience_s: float, pause_s: float) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._name, self._patience_s, self._pause_s = name, patience_s, pause_s
        self._resume = 0.0

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """What `function` returns. Raises StoreError; one that `function` raises is passed on."""
        if time.monotonic() < self._resume:
            raise StoreError("the answer store failed a moment ago and is left alone")
        call = asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        try:
            async with asyncio.timeout(self._patience_s):
                return await call
        except TimeoutError:
            self._pause(f"gave no answer within {self._patience_s:g} s")
            raise StoreError(f"the answer store gave no answer within {self._patience_s:g} s") from None
        except StoreError as error:
            self._pause(str(error))
            raise

    def close(self) -> None:
        """Wait for no call that hangs."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _pause(self, why: str) -> None:
        if time.monotonic() >= self._resume:  # said once a pause
            _log.warning("%s: going on without it for %g s (%s)", self._name, self._pause_s, why)
        self._resume = time.monotonic() + self._pause_s
