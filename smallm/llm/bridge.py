"""The bridge a server holds: remembered answer, else the LLM's, else absent with the reason. Never raises."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from smallm.documents import Span
from smallm.errors import LLMError
from smallm.llm.align import align
from smallm.llm.client import LLMClient
from smallm.llm.parse import parse_reply
from smallm.llm.prompt import Prompt
from smallm.llm.reasons import Reason
from smallm.llm.request import Model, Request, ask
from smallm.llm.store import AnswerStore

_log = logging.getLogger(__name__)
CONCURRENT = 8  # questions open at the LLM at once; a batch of texts is no reason for a burst of 429s


class Mode(StrEnum):
    """How far to go for an answer."""

    OFF = "off"
    CACHED_ONLY = "cached_only"
    WAIT = "wait"


class Status(StrEnum):
    """Where an answer comes from."""

    FRESH = "fresh"
    CACHED = "cached"
    ABSENT = "absent"


@dataclass(frozen=True)
class Answer:
    """The LLM's part. `spans` is None exactly if absent, and `reason` then says why."""

    status: Status
    spans: Sequence[Span] | None = None
    reason: Reason | None = None


def absent(reason: Reason) -> Answer:
    """No answer, and why."""
    return Answer(Status.ABSENT, None, reason)


class Bridge:
    """Looks into the store first; equal questions that run at the same time ask the LLM once."""

    def __init__(self, models: Sequence[Model], store: AnswerStore | None, client: LLMClient | None) -> None:
        """`models` are tried in order in the store; the first is the one `client` asks."""
        self._models, self._store, self._client = models, store, client
        self._running: dict[str, asyncio.Task[Answer]] = {}
        self._slots = asyncio.Semaphore(CONCURRENT)

    async def answer(self, prompt: Prompt | None, text: str, mode: Mode) -> Answer:
        """The LLM's spans for `text`. Trouble of any kind is an absent answer."""
        if mode is Mode.OFF:
            return absent(Reason.OFF)
        if prompt is None or not self._models:
            return absent(Reason.NOT_CONFIGURED)
        if prompt.is_demonstration(text):
            return absent(Reason.DEMONSTRATION)
        try:
            remembered = await asyncio.to_thread(self._remembered, prompt, text)
        except LLMError as error:
            return absent(Reason(error.reason))
        if remembered is not None:
            return Answer(Status.CACHED, remembered)
        if mode is Mode.CACHED_ONLY:
            return absent(Reason.NOT_CACHED)
        if self._client is None:
            return absent(Reason.NOT_CONFIGURED if self._store is None else Reason.NOT_CACHED)
        return await self._single_flight(self._client, ask(self._models[0], prompt, text), prompt, text)

    async def close(self) -> None:
        """Wait for running questions, then close client and store."""
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        if self._client is not None:
            await self._client.close()
        if self._store is not None:
            self._store.close()

    def _remembered(self, prompt: Prompt, text: str) -> list[Span] | None:
        if self._store is None:
            return None
        try:
            found = (self._store.spans(ask(model, prompt, text), prompt, text) for model in self._models)
            return next((spans for spans in found if spans is not None), None)
        except sqlite3.Error as error:
            _log.warning("the answer store cannot be read (%s); going on without it", error)
            return None

    async def _single_flight(self, client: LLMClient, request: Request, prompt: Prompt, text: str) -> Answer:
        key = request.key
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._ask(client, request, prompt, text))
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task)  # one caller's cancellation does not take the answer from the others

    async def _ask(self, client: LLMClient, request: Request, prompt: Prompt, text: str) -> Answer:
        try:
            async with self._slots:
                reply = await client.ask(request)
            return Answer(Status.FRESH, await asyncio.to_thread(self._keep, request, prompt, text, reply))
        except LLMError as error:
            return absent(Reason(error.reason))

    def _keep(self, request: Request, prompt: Prompt, text: str, reply: str) -> list[Span]:
        if self._store is not None:
            try:
                return self._store.add(request, prompt, text, reply)
            except sqlite3.Error as error:
                _log.warning("an answer cannot be stored (%s); it is used and forgotten", error)
        return align(parse_reply(reply), text, [type_.name for type_ in prompt.types])
