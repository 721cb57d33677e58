"""Gathers what waits while the engine is busy into its next batch. One task owns the queue."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from smallm.errors import OverloadedError
from smallm_runtime.engine import Item, Recognized

_log = logging.getLogger(__name__)
RETRY_AFTER_S = 0.5
RecognizeFunction = Callable[[Sequence[Item]], list[Recognized]]


@dataclass(frozen=True)
class Outcome:
    """What came of one item, and how it fared: seconds queued and in the model, items in its batch."""

    recognized: Recognized
    queue_s: float
    model_s: float
    batch_size: int


@dataclass
class _Waiting:
    item: Item
    future: asyncio.Future[Outcome]
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """Bounded queue before one engine thread.

    A future exists before its item is queued; items whose caller has gone are dropped before they
    cost anything; a batch that fails is run again one by one, so that only the bad item fails.
    """

    def __init__(self, recognize: RecognizeFunction, max_queue: int = 512, max_batch: int = 32) -> None:
        self._recognize, self._max_batch = recognize, max_batch
        self._queue: asyncio.Queue[_Waiting | None] = asyncio.Queue(max_queue)  # None: the last one, stop
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the worker."""
        self._worker = asyncio.create_task(self._run())

    async def submit(self, item: Item) -> Outcome:
        """Recognise one item. Raises OverloadedError if the queue is full, or what the engine raised."""
        waiting = _Waiting(item, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(waiting)
        except asyncio.QueueFull:
            raise OverloadedError(f"{self._queue.maxsize} texts are waiting already", RETRY_AFTER_S) from None
        return await waiting.future

    async def close(self) -> None:
        """Finish what is queued, then stop."""
        if self._worker is not None:
            await self._queue.put(None)
            await self._worker
        self._executor.shutdown(wait=True)

    async def _run(self) -> None:
        """Until `close`: no failure of a batch ends it, and none leaves a caller waiting."""
        stopping = False
        while not stopping:
            waiting = [await self._queue.get()]
            while len(waiting) < self._max_batch and not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            stopping = None in waiting
            alive = [one for one in waiting if one is not None and not one.future.done()]
            try:
                await self._run_batch(alive)
            except Exception as error:
                for one in alive:
                    _settle(one.future, error)

    async def _run_batch(self, batch: Sequence[_Waiting]) -> None:
        if not batch:
            return
        begin = time.perf_counter()
        try:
            results = await asyncio.get_running_loop().run_in_executor(
                self._executor, self._recognize, [one.item for one in batch]
            )
        except Exception as error:
            if len(batch) == 1:
                _settle(batch[0].future, error)
                return
            _log.warning("a batch of %d failed (%s); running its texts one by one", len(batch), type(error).__name__)
            for one in batch:
                await self._run_batch([one])
            return
        took = time.perf_counter() - begin
        for one, recognized in zip(batch, results, strict=True):
            _settle(one.future, Outcome(recognized, begin - one.since, took, len(batch)))


def _settle(future: asyncio.Future[Outcome], result: Outcome | Exception) -> None:
    if future.done():  # its caller went away meanwhile
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
