"""Whether a text is taken on: the queue's bounds, and what can still be done in its caller's time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smallm.errors import DeadlineError, OverloadedError
from smallm_runtime.pace import Pace
from smallm_runtime.waiting import Flight, Waiting

SHORTEST_RETRY_S, LONGEST_RETRY_S = 0.05, 30.0
SAFE_SHARE = 0.75  # of a caller's time: estimates err, the machine is shared, and the answer has to travel


@dataclass(frozen=True)
class Limits:
    """What a batcher takes on. Texts longer than a round have a bound of their own, they do not shut others out.

    round_tokens, parallel: see Profile; queue_texts and queue_tokens bound the short texts that wait, long_tokens the
    long ones; cache_bytes bounds the answers kept, 0 keeps none.
    """

    round_tokens: int = 2048
    parallel: int = 1
    queue_texts: int = 512
    queue_tokens: int = 65_536
    long_tokens: int = 4_000_000
    cache_bytes: int = 32 << 20


def refusal(
    flight: Flight,
    timeout_s: float | None,
    waiting: Waiting,
    running: Sequence[tuple[int, float]],
    pace: Pace,
    limits: Limits,
) -> OverloadedError | DeadlineError | None:
    """Why `flight` is not to be taken on, None if it is. `running` are rounds: their tokens, and seconds so far."""
    if _full(flight, waiting, limits):
        retry = _bounded(pace.seconds(waiting.short_tokens / 2))
        return OverloadedError(f"{len(waiting)} texts are waiting already", retry)
    if timeout_s is None or not pace.known:
        return None
    alone = pace.seconds(flight.tokens)
    needed = _running_s(running, pace, limits) + _needed_s(flight, waiting, pace, limits)
    if alone <= timeout_s and needed <= max(SAFE_SHARE * timeout_s, alone):
        return None
    if alone > timeout_s:
        return DeadlineError(f"takes about {alone:.2f} s at any load, {timeout_s:.2f} s are left")
    message = f"takes about {needed:.2f} s at the present load, {timeout_s:.2f} s are left"
    return OverloadedError(message, _bounded(needed - SAFE_SHARE * timeout_s))


def _full(flight: Flight, waiting: Waiting, limits: Limits) -> bool:
    """The first of its kind is always taken on."""
    if waiting.is_long(flight):
        return waiting.long_tokens > 0 and waiting.long_tokens + flight.tokens > limits.long_tokens
    many = waiting.short >= limits.queue_texts or waiting.short_tokens + flight.tokens > limits.queue_tokens
    return waiting.short > 0 and many


def _needed_s(flight: Flight, waiting: Waiting, pace: Pace, limits: Limits) -> float:
    """Seconds from the next free round on until `flight` is done."""
    size, long = limits.round_tokens, waiting.is_long(flight)
    ahead = waiting.long_tokens if long else waiting.ahead(flight.urgent)
    seconds = pace.seconds(ahead, ahead / size) / limits.parallel + pace.seconds(
        flight.tokens, -(-flight.tokens // size)
    )
    other_kind = waiting.short_tokens if long else waiting.long_tokens
    turns = 1 + ahead // size  # of the other kind, which take place in between
    return seconds + (turns * pace.seconds(min(size, other_kind)) / limits.parallel if other_kind else 0.0)


def _running_s(running: Sequence[tuple[int, float]], pace: Pace, limits: Limits) -> float:
    """Seconds until a round can start."""
    if len(running) < limits.parallel:
        return 0.0
    return min(max(0.0, pace.seconds(tokens) - so_far) for tokens, so_far in running)


def _bounded(seconds: float) -> float:
    return min(LONGEST_RETRY_S, max(SHORTEST_RETRY_S, seconds))
