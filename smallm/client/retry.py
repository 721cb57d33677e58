"""Whether a failed call is made again, and when."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from smallm.errors import ServerError, TryAgainError


@dataclass(frozen=True)
class Retry:
    """`attempts` in all; between them a random wait of up to `first_s`, twice that, ... `longest_s`.

    A server that says how long to wait gets that long, and as much again at random: those it sent away
    do not come back together. Never beyond the call's deadline.
    """

    attempts: int = 5
    first_s: float = 0.1
    longest_s: float = 5.0


DEFAULT = Retry()


class Tries:
    """The tries of one call, or of one item."""

    def __init__(self, policy: Retry, timeout_s: float | None) -> None:
        self._policy, self._made = policy, 0
        self._end = None if timeout_s is None else time.monotonic() + timeout_s

    @property
    def left_s(self) -> float | None:
        """Seconds until the deadline, not below 0; None without one."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def succeeded(self) -> None:
        """Begin to count anew."""
        self._made = 0

    def wait_s(self, error: ServerError) -> float:
        """Seconds until the next try. Raises `error` if there is none."""
        self._made += 1
        told = error.retry_after_s or 0.0
        backoff = min(self._policy.longest_s, self._policy.first_s * 2.0 ** (self._made - 1))
        wait_s = told + random.uniform(0.0, max(told, backoff))
        left_s = self.left_s
        late = left_s is not None and wait_s >= left_s
        if not isinstance(error, TryAgainError) or self._made >= self._policy.attempts or late:
            raise error
        return wait_s
