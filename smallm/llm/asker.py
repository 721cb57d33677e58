"""Asking: endpoints in order, each with its retries, breaker, response formats and what it may cost."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from smallm.errors import LLMError, StoreError
from smallm.llm.audit import Audit
from smallm.llm.breaker import Breaker, State
from smallm.llm.client import CallError, LLMClient, Reply
from smallm.llm.limits import MICRO, Budget, Usage, estimate
from smallm.llm.metrics import Metrics
from smallm.llm.question import Question
from smallm.llm.reasons import Reason
from smallm.llm.request import Request
from smallm.llm.settings import BridgeSettings, EndpointSettings
from smallm.llm.store import AnswerStore, Derived, Record

_log = logging.getLogger(__name__)
BACKOFF_S, LONGEST_BACKOFF_S = 0.25, 8.0
LONGEST_PAUSE_S = 3600.0  # an endpoint that asks for more is asked again all the same
_LIMIT_POLL_S = 0.25
_DAY_S = 86_400
_FOR_ALL = frozenset({Reason.OVER_BUDGET, Reason.PRIVACY, Reason.STORE, Reason.BUSY})  # no other endpoint would help
_AT_FAULT = frozenset({Reason.TIMEOUT, Reason.UNAVAILABLE, Reason.UNAUTHORIZED})
RunInThread = Callable[..., Awaitable[Any]]


@dataclass
class Flight:
    """A question being asked. Nothing new is begun for it after `deadline` (seconds of the loop's clock)."""

    deadline: float

    @property
    def left_s(self) -> float:
        """Seconds until then; negative afterwards."""
        return self.deadline - asyncio.get_running_loop().time()


@dataclass
class Line:
    """An endpoint and what is known about it: `form` is the first response format it is worth trying."""

    index: int
    settings: EndpointSettings
    client: LLMClient
    breaker: Breaker
    form: int = 0
    paused_until: float = field(default=0.0)


class Asker:
    """Turns a question into derived tags, kept in the store, or an LLMError that says why not."""

    def __init__(self, settings: BridgeSettings, store: AnswerStore, metrics: Metrics, run: RunInThread) -> None:
        """`run` calls a blocking function in a thread. Raises DataError if a key's file cannot be read."""
        self._settings, self._store, self._metrics, self._run = settings, store, metrics, run
        self.budget, self.audit = Budget(settings.limits, store), Audit(settings.privacy.audit)
        self._slots = asyncio.Semaphore(settings.limits.concurrency)
        self.lines = [
            Line(index, one, LLMClient(one), Breaker(settings.breaker.failures, settings.breaker.open_s))
            for index, one in enumerate(settings.endpoint)
        ]
        for line in self.lines:
            metrics.breaker(str(line.index), lambda line=line: list(State).index(line.breaker.state))  # type: ignore[misc]

    async def ask(self, question: Question, skip: Collection[int], flight: Flight) -> Derived:
        """The answer of the first endpoint, but those in `skip`, that has one. Raises LLMError.

        The next one is tried when all so far have failed or, with hedging, when they take long.
        """
        waiting = deque(line for line in self.lines if line.index not in skip)
        hedge_s = self._settings.hedge_after_s or None
        if hedge_s and len(waiting) == 1:
            waiting.append(waiting[0])
        pending: set[asyncio.Task[Derived]] = set()
        done: set[asyncio.Task[Derived]] = set()
        problem: LLMError | None = None
        try:
            while waiting or pending:
                if waiting and (not pending or not done):
                    pending.add(asyncio.create_task(self._ask_line(waiting.popleft(), question, flight)))
                done, pending = await asyncio.wait(
                    pending, timeout=hedge_s if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    try:
                        return task.result()
                    except LLMError as error:
                        if error.reason in _FOR_ALL:
                            raise
                        if problem is None or problem.reason == Reason.BREAKER_OPEN:
                            problem = error
        finally:
            for task in pending:
                task.cancel()
        raise problem or LLMError(Reason.NOT_CONFIGURED, "there is no LLM to ask")

    async def close(self) -> None:
        """Close the connections."""
        for line in self.lines:
            await line.client.close()

    async def _ask_line(self, line: Line, question: Question, flight: Flight) -> Derived:
        attempt = 0
        while True:
            await self._unpaused(line, flight)
            if not line.breaker.allow():
                raise LLMError(Reason.BREAKER_OPEN, "the LLM failed repeatedly and is left alone for a while")
            try:
                answer = await self._first_accepted_format(line, question, flight)
            except CallError as error:
                self._told_breaker(line, Reason(error.reason))
                wait_s = random.uniform(0, min(LONGEST_BACKOFF_S, BACKOFF_S * 2**attempt))
                if error.retry_after_s is not None:
                    wait_s = min(error.retry_after_s, LONGEST_PAUSE_S)
                    line.paused_until = max(line.paused_until, time.monotonic() + wait_s)
                if not error.retryable or attempt >= line.settings.retries or wait_s >= flight.left_s:
                    raise
                attempt += 1
                await asyncio.sleep(wait_s)
            except LLMError as error:  # an answer that is none, or a limit of ours
                self._told_breaker(line, Reason(error.reason))
                raise
            except BaseException:
                line.breaker.abandoned()
                raise
            else:
                line.breaker.succeeded()
                return answer

    def _told_breaker(self, line: Line, reason: Reason) -> None:
        if reason in _AT_FAULT:
            line.breaker.failed()
        elif reason in _FOR_ALL or reason is Reason.RATE_LIMITED:
            line.breaker.abandoned()
        else:
            line.breaker.succeeded()  # it did answer

    async def _unpaused(self, line: Line, flight: Flight) -> None:
        """Wait as long as the endpoint asked for. Raises LLMError if that is longer than anybody waits."""
        while (pause_s := line.paused_until - time.monotonic()) > 0:
            if pause_s >= flight.left_s:
                raise LLMError(Reason.RATE_LIMITED, "the LLM's endpoint asked to be left alone for a while")
            await asyncio.sleep(pause_s)

    async def _first_accepted_format(self, line: Line, question: Question, flight: Flight) -> Derived:
        requests = question.requests(line.index)
        begin = min(line.form, len(requests) - 1)
        for form, request in enumerate(requests[begin:], start=begin):
            try:
                reply = await self._call(line, request, question, flight)
            except CallError as error:
                if not error.rejected:
                    raise
                if form < len(requests) - 1:
                    continue
                await self.keep(line, request, question, Reply("", Reason.REFUSED, 0, 0, 0.0))
                raise
            line.form = form
            return await self.keep(line, request, question, reply)
        raise AssertionError("a ladder has a last rung")

    async def _call(self, line: Line, request: Request, question: Question, flight: Flight) -> Reply:
        reserved = estimate(request)
        micros = reserved.cost(line.settings)
        outcome = "cancelled"
        async with self._slot(flight):
            await self._reserve(reserved, micros, flight)
            await self.announce(request, question)
            try:
                reply = await line.client.ask(request, line.settings.timeout_s)
            except CallError as error:
                outcome = error.reason
                if not error.billed:
                    await self._settle(reserved, Usage(0, 0), micros, 0)
                raise
            else:
                outcome = reply.outcome or "ok"
            finally:
                self._metrics.calls.labels(str(line.index), outcome).inc()
        await self.account(line, reply, reserved, micros)
        return reply

    async def announce(self, request: Request, question: Question) -> None:
        """Put on record that a request is about to leave. Raises LLMError if that cannot be."""
        await asyncio.to_thread(self.audit.sent, request, question.redactions)
        for rule, count in question.redactions.items():
            self._metrics.redactions.labels(rule).inc(count)

    async def account(self, line: Line, reply: Reply, reserved: Usage, micros: int, discount: float = 0.0) -> None:
        """Count what a call used, at its price less `discount` (0 to 1)."""
        used = Usage(reply.prompt_tokens, reply.completion_tokens)
        if not used.tokens:
            used = reserved  # the endpoint does not say
        cost = round((1 - discount) * used.cost(line.settings))
        await self._settle(reserved, used, micros, cost)
        name = str(line.index)
        self._metrics.latency.labels(name).observe(reply.latency_s)
        self._metrics.tokens.labels(name, "prompt").inc(used.prompt)
        self._metrics.tokens.labels(name, "completion").inc(used.completion)
        self._metrics.money.labels(name).inc(cost / MICRO)

    async def keep(self, line: Line, request: Request, question: Question, reply: Reply) -> Derived:
        """Judge a reply and remember it either way. Raises LLMError if it is no answer."""
        record = Record(
            key=request.key,
            domain=question.domain,
            provider=request.model.provider,
            model=request.model.name,
            text=question.text,
            types=question.types,
            reply=reply.content,
            outcome=reply.outcome,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            latency_s=reply.latency_s,
        )
        record, derived = judged(record, self._settings)
        try:
            await self._run(self._store.put, [(record, derived)])
        except StoreError as error:
            _log.warning("an answer cannot be stored; it is used and forgotten (%s)", error)
        if derived is None:
            raise LLMError(record.outcome or Reason.UNPARSABLE, "the LLM's reply is no answer")
        return derived

    @asynccontextmanager
    async def _slot(self, flight: Flight) -> AsyncIterator[None]:
        while True:
            if flight.left_s <= 0:
                raise LLMError(Reason.BUSY, "too many questions are being asked already")
            try:
                await asyncio.wait_for(self._slots.acquire(), flight.left_s)
                break
            except TimeoutError:  # unless somebody who waits longer has joined
                continue
        try:
            yield
        finally:
            self._slots.release()

    async def _reserve(self, usage: Usage, micros: int, flight: Flight) -> None:
        while True:
            try:
                await self._run(self.budget.reserve, usage, micros)
                return
            except LLMError as error:
                if error.reason != Reason.RATE_LIMITED or flight.left_s <= _LIMIT_POLL_S:
                    raise
            except StoreError as error:
                if self._settings.limits.any:
                    raise LLMError(Reason.STORE, "what is spent cannot be counted; nothing is asked") from None
                _log.warning("calls cannot be counted (%s)", error)
                return
            await asyncio.sleep(_LIMIT_POLL_S)

    async def _settle(self, reserved: Usage, used: Usage, reserved_micros: int, used_micros: int) -> None:
        try:
            await self._run(self.budget.settle, reserved, used, reserved_micros, used_micros)
        except StoreError as error:
            _log.warning("what a call used cannot be counted (%s)", error)


def judged(record: Record, settings: BridgeSettings) -> tuple[Record, Derived | None]:
    """A record with its outcome and life, and its tags if it is an answer."""
    memory, outcome, derived = settings.memory, record.outcome, None
    expires = record.created + memory.expire_days * _DAY_S if memory.expire_days else 0.0
    if outcome is None:
        try:
            derived = replace(record, expires=expires).derive()
        except LLMError as error:
            outcome = Reason(error.reason)
    if outcome is not None:
        expires = record.created + memory.negative_s
    return replace(record, outcome=outcome, expires=expires), derived
