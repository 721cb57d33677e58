"""What waits for the engine: short texts by urgency, long ones in turns."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from smallm_runtime.engine import Work

PATIENCE_S = 5.0  # a deadline further away than this does not let others overtake


@dataclass(eq=False)
class Flight:
    """One text on its way, for all who asked for it. Times are `time.monotonic`'s.

    `tokens` is an estimate from above: a character is at most about one token. `expires` is when the last of its
    callers gives up, `urgent` when it should be done.
    """

    key: Any
    work: Work
    tokens: int
    since: float
    expires: float = -math.inf
    urgent: float = math.inf
    callers: list[asyncio.Future[Any]] = field(default_factory=list)
    started: float = 0.0
    model_s: float = 0.0
    shared: int = 1

    def join(self, caller: asyncio.Future[Any], expires: float, now: float) -> None:
        """One caller more."""
        self.callers.append(caller)
        self.expires = max(self.expires, expires)
        self.urgent = min(self.urgent, expires, now + PATIENCE_S)

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for it."""
        return any(not caller.done() for caller in self.callers)


class Waiting:
    """Short texts in order of urgency, bounded; texts longer than a round in turns, a round's worth each."""

    def __init__(self, round_tokens: int) -> None:
        self._round_tokens = round_tokens
        self._short: list[Flight] = []
        self._long: deque[Flight] = deque()
        self._long_next = False
        self.short_tokens = 0
        self.long_tokens = 0

    def __len__(self) -> int:
        return len(self._short) + len(self._long)

    def __iter__(self) -> Iterator[Flight]:
        yield from self._short
        yield from self._long

    @property
    def short(self) -> int:
        """How many short texts wait."""
        return len(self._short)

    def is_long(self, flight: Flight) -> bool:
        """Whether a text takes several rounds."""
        return flight.tokens > self._round_tokens

    def add(self, flight: Flight) -> None:
        """Queue a text, or a long one again after its turn."""
        if self.is_long(flight):
            self._long.append(flight)
            self.long_tokens += flight.tokens
        else:
            insort(self._short, flight, key=_urgency)
            self.short_tokens += flight.tokens

    def remove(self, flight: Flight) -> bool:
        """Take a text out; false if it does not wait (it is being worked on)."""
        if self.is_long(flight):
            if flight not in self._long:
                return False
            self._long.remove(flight)
            self.long_tokens -= flight.tokens
            return True
        position = bisect_left(self._short, flight.urgent, key=_urgency)
        while position < len(self._short) and self._short[position].urgent == flight.urgent:
            if self._short[position] is flight:
                del self._short[position]
                self.short_tokens -= flight.tokens
                return True
            position += 1
        return False

    def ahead(self, urgent: float) -> int:
        """Tokens of the short texts that come before one that is this urgent."""
        return sum(flight.tokens for flight in self._short[: bisect_left(self._short, urgent, key=_urgency)])

    def take(self) -> list[Flight]:
        """The next round: the most urgent short texts that fit, or one long text; in turns where both wait."""
        if self._long and (self._long_next or not self._short):
            self._long_next = False
            flight = self._long.popleft()
            self.long_tokens -= flight.tokens
            return [flight]
        self._long_next = True
        count = tokens = 0
        while count < len(self._short) and (tokens + self._short[count].tokens <= self._round_tokens or not count):
            tokens += self._short[count].tokens
            count += 1
        taken = self._short[:count]
        del self._short[:count]
        self.short_tokens -= tokens
        return taken


def _urgency(flight: Flight) -> float:
    return flight.urgent
