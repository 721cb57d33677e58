"""Gathers what waits into rounds of the engine: by urgency and token budget, each text once, nothing for nobody.

All but the engine's work happens on the event loop, so nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from smallm.errors import DeadlineError, StoppingError, UnavailableError
from smallm_runtime.admission import Limits, refusal
from smallm_runtime.engine import Item, Work
from smallm_runtime.heads import Recognized
from smallm_runtime.pace import Pace
from smallm_runtime.results import Results
from smallm_runtime.waiting import Flight, Waiting

_log = logging.getLogger(__name__)
LARGE_ROUND = 512  # tokens, from which on a round leaves memory behind that is worth giving back
REST_S = 0.3  # without work, before it is given back
STALL_S = 120.0  # a round that takes longer hangs
RECOVERY_RETRY_S = 1.0
StepFunction = Callable[[Sequence[Work]], None]


@dataclass
class Counts:
    """What happened so far; a server's batchers share one. Texts, unless it says otherwise."""

    computed: int = 0
    remembered: int = 0
    joined: int = 0
    refused: int = 0
    expired: int = 0
    cancelled: int = 0
    failed: int = 0
    rounds: int = 0
    round_tokens: int = 0
    round_seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What came of one text: seconds queued and in the model, texts in its round (0: it was remembered)."""

    recognized: Recognized
    queue_s: float
    model_s: float
    batch_size: int


@dataclass(eq=False)
class _Round:
    flights: list[Flight]
    tokens: int
    begin: float = field(default_factory=time.monotonic)


class Batcher:
    """Bounded queue before the engine. Belongs to the event loop that it is made in.

    Equal texts with an equal LLM part are computed once, together or from memory. A text whose callers have all
    gone costs nothing any more; one that cannot be done in its caller's time is refused at once. A round that
    fails is run again text by text. If the engine hangs or something breaks here, all who wait are told,
    `crashed` is called, and nothing is taken on any more.
    """

    def __init__(
        self,
        step: StepFunction,
        limits: Limits | None = None,
        *,
        bundle_hash: str = "",
        counts: Counts | None = None,
        crashed: Callable[[BaseException], object] | None = None,
        tidy: Callable[[], None] | None = None,
    ) -> None:
        """`tidy` is called in the engine's thread when there is nothing to do after a large round."""
        self.limits = limits or Limits()
        self.counts = counts if counts is not None else Counts()
        self._step, self._hash, self._crashed = step, bundle_hash, crashed
        self._waiting = Waiting(self.limits.round_tokens)
        self._alone: deque[Flight] = deque()  # of a failed round, to be run one by one
        self._flights: dict[object, Flight] = {}
        self._rounds: set[_Round] = set()
        self._results = Results(self.limits.cache_bytes)
        self._pace = Pace()
        self._closed = False
        self._failure: BaseException | None = None
        self._tidy, self._untidy = tidy, False
        self._resting: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._executor = ThreadPoolExecutor(self.limits.parallel, thread_name_prefix="engine")
        self._loop = asyncio.get_running_loop()

    @property
    def healthy(self) -> bool:
        """Whether texts are taken on."""
        return self._failure is None and not self._closed

    @property
    def queued(self) -> tuple[int, int]:
        """Texts and tokens (code points) that wait."""
        return len(self._waiting), self._waiting.short_tokens + self._waiting.long_tokens

    @property
    def remembered(self) -> tuple[int, int]:
        """Answers kept and about how many bytes they take."""
        return len(self._results), self._results.bytes

    async def submit(self, item: Item, timeout_s: float | None = None) -> Outcome:
        """Recognise one text within `timeout_s`.

        Raises OverloadedError or DeadlineError at once if it is not taken on, UnavailableError when closed or
        crashed, or what the engine raised.
        """
        key = (
            item.text, item.domain, None if item.answer is None else tuple(item.answer), item.way, self._hash
        )  # fmt: skip
        kept = self._results.get(key)
        if kept is not None:
            self.counts.remembered += 1
            return Outcome(kept, 0.0, 0.0, 0)
        if not self.healthy:
            raise _unavailable(self._failure)
        now = time.monotonic()
        caller: asyncio.Future[Outcome] = self._loop.create_future()
        flight = self._flights.get(key)
        if flight is not None:
            self.counts.joined += 1
            waits = self._waiting.remove(flight)
            flight.join(caller, now + (math.inf if timeout_s is None else timeout_s), now)
            if waits:
                self._waiting.add(flight)
        else:
            flight = Flight(key, Work(item), len(item.text) + 2, now)
            flight.join(caller, now + (math.inf if timeout_s is None else timeout_s), now)
            self._admit(flight, timeout_s)
            self._flights[flight.key] = flight
            self._waiting.add(flight)
            self._dispatch()
        try:
            return await caller
        except asyncio.CancelledError:
            self._left(flight)
            raise

    async def close(self) -> None:
        """Take on nothing more, finish what is queued, then stop."""
        self._closed = True
        while self._flights and self._failure is None:
            self._empty.clear()
            await self._empty.wait()
        await asyncio.to_thread(self._executor.shutdown, self._failure is None)

    def _admit(self, flight: Flight, timeout_s: float | None) -> None:
        """Refuse what does not fit or cannot be in time."""
        running = [(one.tokens, time.monotonic() - one.begin) for one in self._rounds]
        refused = refusal(flight, timeout_s, self._waiting, running, self._pace, self.limits)
        if refused is None:
            return
        self.counts.refused += 1
        raise refused

    def _dispatch(self) -> None:
        """Start rounds while the engine is free and something waits."""
        while len(self._rounds) < self.limits.parallel and (self._alone or self._waiting):
            taken = [self._alone.popleft()] if self._alone else self._waiting.take()
            alive = [flight for flight in taken if self._alive(flight)]
            if alive:
                self._start(alive)
        if not self._flights:
            self._empty.set()
            if self._untidy and self._tidy is not None and not self._closed:
                self._resting = self._loop.call_later(REST_S, self._tidy_up, self._tidy)

    def _tidy_up(self, tidy: Callable[[], None]) -> None:
        if not self._flights and not self._closed:
            self._untidy = False
            self._executor.submit(tidy)

    def _alive(self, flight: Flight) -> bool:
        """Whether anybody could still use it; if not it is dropped, before it costs anything."""
        if not flight.wanted:
            self.counts.cancelled += 1
            del self._flights[flight.key]
            return False
        if flight.expires <= time.monotonic():
            self.counts.expired += 1
            self._settle(flight, DeadlineError("its time was up before its turn came"))
            return False
        return True

    def _start(self, flights: list[Flight]) -> None:
        if self._resting is not None:
            self._resting.cancel()
        one = _Round(flights, sum(min(flight.tokens, self.limits.round_tokens) for flight in flights))
        for flight in flights:
            flight.started = flight.started or one.begin
            flight.shared = max(flight.shared, len(flights))
        self._rounds.add(one)
        stalled = self._loop.call_later(STALL_S, self._crash, TimeoutError(f"a round took more than {STALL_S:.0f} s"))
        self._executor.submit(self._run, one, stalled)

    def _run(self, one: _Round, stalled: asyncio.TimerHandle) -> None:
        """In the engine's thread."""
        failure: BaseException | None = None
        try:
            self._step([flight.work for flight in one.flights])
        except BaseException as error:  # noqa: B036 - whatever it is, those who wait must hear of it
            failure = error
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end, one, stalled, failure)

    def _end(self, one: _Round, stalled: asyncio.TimerHandle, failure: BaseException | None) -> None:
        """Back on the loop: tell who waits, start the next round."""
        took = time.monotonic() - one.begin  # with the loop's lag: under load the next round begins no sooner
        stalled.cancel()
        self._rounds.discard(one)
        if self._failure is not None:
            return
        try:
            if failure is not None:
                self._failed(one, failure)
            else:
                self._finished(one, took)
            self._dispatch()
        except Exception as error:
            self._crash(error)

    def _finished(self, one: _Round, took: float) -> None:
        self._pace.observe(one.tokens, took)
        self._untidy = self._untidy or one.tokens >= LARGE_ROUND
        self.counts.rounds += 1
        self.counts.round_tokens += one.tokens
        self.counts.round_seconds += took
        for flight in one.flights:
            flight.model_s += took
            recognized = flight.work.result
            if recognized is None:  # a long one, after its turn
                self._waiting.add(flight)
                continue
            self.counts.computed += 1
            item = flight.work.item
            self._results.put(flight.key, item.text, len(item.answer or ()), recognized)
            self._settle(
                flight, Outcome(recognized, flight.started - flight.since, flight.model_s, flight.shared)
            )  # fmt: skip

    def _failed(self, one: _Round, failure: BaseException) -> None:
        if not isinstance(failure, Exception):
            self._crash(failure)
        elif len(one.flights) == 1:
            self.counts.failed += 1
            self._settle(one.flights[0], failure)
        else:
            _log.warning("a round of %d failed (%s): one by one now", len(one.flights), type(failure).__name__)
            self._alone.extend(one.flights)

    def _settle(self, flight: Flight, result: Outcome | BaseException) -> None:
        del self._flights[flight.key]
        for caller in flight.callers:
            if caller.done():  # it went away meanwhile
                continue
            if isinstance(result, BaseException):
                caller.set_exception(result)
            else:
                caller.set_result(result)

    def _left(self, flight: Flight) -> None:
        """A caller is gone; if it was the last, its text leaves the queue now and makes room."""
        if not flight.wanted and self._waiting.remove(flight):
            self.counts.cancelled += 1
            del self._flights[flight.key]
            if not self._flights:
                self._empty.set()

    def _crash(self, error: BaseException) -> None:
        if self._failure is not None:
            return
        self._failure = error
        _log.error("the engine crashed: %s", type(error).__name__)
        for flight in list(self._flights.values()):
            self._settle(flight, _unavailable(error))
        self._empty.set()
        if self._crashed is not None:
            self._crashed(error)


def _unavailable(failure: BaseException | None) -> UnavailableError:
    if failure is None:
        return StoppingError()
    return UnavailableError("RECOVERING", "the engine crashed and is being replaced", RECOVERY_RETRY_S)
