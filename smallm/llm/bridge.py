"""The bridge a server holds: remembered answer, else the LLM's, else absent with the reason."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from smallm.documents import Span
from smallm.errors import LLMError, SmallmError, StoreError
from smallm.llm.asker import Asker, Flight
from smallm.llm.metrics import Metrics
from smallm.llm.prompt import Prompt
from smallm.llm.question import Question, Questions
from smallm.llm.reasons import Reason
from smallm.llm.settings import BridgeSettings, Mode
from smallm.llm.store import AnswerStore, Derived, open_store
from smallm.llm.store_threads import StoreThreads

_log = logging.getLogger(__name__)
LONGEST_TEXT = 20_000  # code points that the LLM is asked about
LEASE_S = 10.0  # how long others wait for a process that died while it asked
POLL_S = 0.05
BACKGROUND_S = 600.0
CLOSE_S = 5.0
_READ_S, _WRITE_S, _PAUSE_S = 1.0, 5.0, 5.0  # patience with the store; a write may wait for other processes'
_THREADS = 4  # for reads, and as many for writes: one that waits for another process holds up no read
Confidence = Callable[[], Awaitable[float]]


class Status(StrEnum):
    """Where an answer comes from."""

    FRESH = "fresh"
    CACHED = "cached"
    ABSENT = "absent"


@dataclass(frozen=True)
class Answer:
    """The LLM's part. `spans` is None exactly if absent, and `reason` then says why.

    `answered` is when the LLM gave it, in seconds since 1970; 0 where absent or unknown.
    """

    status: Status
    spans: Sequence[Span] | None = None
    reason: Reason | None = None
    answered: float = field(default=0.0, compare=False)


def absent(reason: Reason) -> Answer:
    """No answer, and why."""
    return Answer(Status.ABSENT, None, reason)


@dataclass(frozen=True)
class _Known:
    """What the store knows: spans, or by endpoint why its last reply was no answer."""

    spans: list[Span] | None = None
    refused: Mapping[int, Reason] = field(default_factory=dict)
    answered: float = 0.0


class _Running(Flight):
    task: asyncio.Task[Answer]


class Bridge:
    """Looks into the store first. Equal questions at the same time, in any process on the store, ask the LLM once."""

    def __init__(self, settings: BridgeSettings, store: AnswerStore | None = None) -> None:
        """Owns `store`, by default the one of the settings. Raises ArtifactError, DataError."""
        self.settings, self.metrics = settings, Metrics()
        self._questions = Questions(settings)
        self._store = store or open_store(settings.store, settings.memory.max_megabytes << 20)
        self._configured = bool(settings.endpoint or settings.store or store)
        self._reads = StoreThreads("reading the answer store", _THREADS, _READ_S, _PAUSE_S)
        self._writes = StoreThreads("writing to the answer store", _THREADS, _WRITE_S, _PAUSE_S)
        self.asker = Asker(settings, self._store, self.metrics, self._writes.run)
        self._flights: dict[str, _Running] = {}
        self._keeping: set[asyncio.Task[None]] = set()

    async def answer(
        self,
        prompt: Prompt | None,
        text: str,
        mode: Mode | None = None,
        timeout_s: float | None = None,
        confidence: Confidence | None = None,
    ) -> Answer:
        """The LLM's spans for `text` within `timeout_s`. Trouble of any kind is an absent answer.

        `mode` None is the settings'. WHEN_UNCERTAIN calls `confidence` for the local model's if there is no
        remembered answer; what that raises is passed on.
        """
        mode = mode or self.settings.mode
        self.metrics.requests.labels(mode).inc()
        try:
            answer = await self._answer(prompt, text, mode, timeout_s, confidence)
        except SmallmError:
            raise
        except Exception as error:  # a fault of ours; its message may hold the text
            _log.error("the bridge failed: %s", type(error).__name__)
            answer = absent(Reason.UNAVAILABLE)
        self.metrics.answers.labels(answer.reason or answer.status).inc()
        return answer

    async def unanswered(self, prompt: Prompt, text: str) -> Question | None:
        """The question that would have to be asked for `text`; None if nothing would be."""
        if prompt.is_demonstration(text):
            return None
        question = self._questions.about(prompt, text)
        return None if question.bare or self._settled(await self._look(question)) else question

    async def close(self) -> None:
        """Let running questions come to an end for a while, then close connections and store."""
        tasks: list[asyncio.Task[Any]] = [flight.task for flight in self._flights.values()]
        tasks += self._keeping
        if tasks:
            _, unfinished = await asyncio.wait(tasks, timeout=CLOSE_S)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
        await self.asker.close()
        try:
            await self._writes.run(self._store.close)
        except StoreError as error:
            _log.warning("the answer store did not close well (%s)", error)
        self._reads.close()
        self._writes.close()

    async def _answer(
        self, prompt: Prompt | None, text: str, mode: Mode, timeout_s: float | None, confidence: Confidence | None
    ) -> Answer:
        if mode is Mode.OFF:
            return absent(Reason.OFF)
        if prompt is None or not self._configured:
            return absent(Reason.NOT_CONFIGURED)
        if prompt.is_demonstration(text):
            return absent(Reason.DEMONSTRATION)
        if len(text) > LONGEST_TEXT:
            return absent(Reason.TOO_LONG)
        wait_s = self.settings.wait_s if timeout_s is None else min(timeout_s, self.settings.wait_s)
        deadline = asyncio.get_running_loop().time() + wait_s
        question = self._questions.about(prompt, text)
        try:
            async with asyncio.timeout_at(deadline):
                known = await self._look(question)
        except TimeoutError:
            return absent(Reason.TIMEOUT)
        settled = self._settled(known)
        if settled is not None:
            return settled
        if mode is Mode.CACHED_ONLY:
            return absent(Reason.NOT_CACHED)
        if question.bare:
            return absent(Reason.PRIVACY)
        if mode is Mode.WHEN_UNCERTAIN and confidence and await confidence() >= self.settings.threshold:
            return absent(Reason.CERTAIN)
        if mode is Mode.BACKGROUND:
            return self._in_background(question)
        return await self._wait(question, deadline)

    def _settled(self, known: _Known) -> Answer | None:
        """The answer if what is known leaves nothing to ask."""
        if known.spans is not None:
            return Answer(Status.CACHED, known.spans, answered=known.answered)
        if all(line.index in known.refused for line in self.asker.lines):
            return absent(next(iter(known.refused.values()), Reason.NOT_CACHED))
        return None

    def _in_background(self, question: Question) -> Answer:
        if len(self._flights) >= self.settings.limits.background_queue:
            return absent(Reason.BUSY)
        self.metrics.asked.inc()
        self._join(question, asyncio.get_running_loop().time() + BACKGROUND_S)
        return absent(Reason.BACKGROUND)

    async def _wait(self, question: Question, deadline: float) -> Answer:
        self.metrics.asked.inc()
        task = self._join(question, deadline)
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(task)  # one caller's end does not take the answer from the others
        except TimeoutError:
            return absent(Reason.TIMEOUT)

    def _join(self, question: Question, deadline: float) -> asyncio.Task[Answer]:
        key = question.keys[0]
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Running(deadline)
            flight.task = asyncio.create_task(self._fly(question, flight))
            flight.task.add_done_callback(lambda _: self._flights.pop(key, None))
        else:
            self.metrics.coalesced.labels("process").inc()
            flight.deadline = max(flight.deadline, deadline)
        return flight.task

    async def _fly(self, question: Question, flight: Flight) -> Answer:
        """Ask, unless another process does so already; then wait for what it finds."""
        name, owner = f"question/{question.keys[0]}", uuid.uuid4().hex
        try:
            waited = False
            while not await self._claim(name, owner):
                if not waited:
                    self.metrics.coalesced.labels("store").inc()
                waited = True
                if flight.left_s <= 0:
                    return absent(Reason.TIMEOUT)
                await asyncio.sleep(POLL_S)
                settled = self._settled(await self._look(question))
                if settled is not None:
                    return settled
            renewal = asyncio.create_task(self._renew(name, owner))
            try:
                known = await self._look(question)  # another process may have finished just before the claim
                settled = self._settled(known)
                if settled is not None:
                    return settled
                derived = await self.asker.ask(question, known.refused, flight)
                return Answer(Status.FRESH, derived.spans(question.types), answered=derived.created)
            finally:
                renewal.cancel()
                await self._release(name, owner)
        except LLMError as error:
            return absent(Reason(error.reason))

    async def _claim(self, name: str, owner: str) -> bool:
        try:
            return await self._writes.run(self._store.claim, name, owner, LEASE_S)
        except StoreError:  # other processes cannot be told what is being asked
            return True

    async def _renew(self, name: str, owner: str) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            await self._claim(name, owner)

    async def _release(self, name: str, owner: str) -> None:
        with contextlib.suppress(StoreError):  # it ends by itself, after LEASE_S
            await self._writes.run(self._store.release, name, owner)

    async def _look(self, question: Question) -> _Known:
        try:
            known, derived = await self._reads.run(self._read, question)
        except StoreError:
            return _Known()
        if derived is not None:  # nobody waits for it to be kept
            task = asyncio.create_task(self._derive(*derived))
            self._keeping.add(task)
            task.add_done_callback(self._keeping.discard)
        return known

    async def _derive(self, key: str, derived: Derived) -> None:
        with contextlib.suppress(StoreError):
            await self._writes.run(self._store.derive, key, derived)

    def _read(self, question: Question) -> tuple[_Known, tuple[str, Derived] | None]:
        """What is known, and the key and tags of a reply that had none by this parser, to be kept."""
        derived = self._store.tags(question.keys, question.reader)
        if derived is not None:
            return _Known(derived.spans(question.types), answered=derived.created), None
        records = self._store.records(question.keys)
        refused: dict[int, Reason] = {}
        for candidate in question.candidates:
            record = records.get(candidate.key)
            if record is None:
                continue
            reason = record.outcome
            if reason is None:
                try:
                    derived = record.derive()
                except LLMError as error:
                    reason = Reason(error.reason)
                else:
                    return _Known(derived.spans(question.types), answered=derived.created), (record.key, derived)
            refused.setdefault(candidate.endpoint, reason)
        return _Known(None, refused), None
