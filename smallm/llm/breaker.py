"""A circuit breaker: an endpoint that keeps failing is left alone, then tried with one call at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum

LONGEST = 10  # times the first opening


class State(StrEnum):
    """CLOSED lets calls through, OPEN none, HALF_OPEN one at a time."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Breaker:
    """Opens after `failures` in a row for `open_s` seconds, twice as long after every probe that fails."""

    def __init__(self, failures: int, open_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._threshold, self._open_s, self._clock = failures, open_s, clock
        self._failed, self._factor, self._until, self._probing = 0, 1, 0.0, False

    @property
    def state(self) -> State:
        """What it lets through just now."""
        if self._clock() < self._until:
            return State.OPEN
        return State.HALF_OPEN if self._failed >= self._threshold else State.CLOSED

    def allow(self) -> bool:
        """Whether a call may be made; one that may must end in `succeeded`, `failed` or `abandoned`."""
        state = self.state
        if state is State.HALF_OPEN:
            if self._probing:
                return False
            self._probing = True
        return state is not State.OPEN

    def succeeded(self) -> None:
        """The endpoint answered."""
        self._failed, self._factor, self._probing = 0, 1, False

    def failed(self) -> None:
        """The endpoint was at fault."""
        half_open, self._probing = self._failed >= self._threshold, False
        self._failed += 1
        if self._failed >= self._threshold and self.state is not State.OPEN:
            self._factor = min(2 * self._factor, LONGEST) if half_open else 1
            self._until = self._clock() + self._open_s * self._factor

    def abandoned(self) -> None:
        """Nothing was learned about the endpoint."""
        self._probing = False
