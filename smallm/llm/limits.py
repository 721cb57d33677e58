"""What may be spent, counted in the store and so across restarts and replicas. Days are UTC days."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from smallm.errors import LLMError
from smallm.llm.reasons import Reason
from smallm.llm.request import Request
from smallm.llm.settings import EndpointSettings, Limits
from smallm.llm.store import AnswerStore, Charge

MICRO = 1_000_000  # money is counted in millionths
_DAY_S, _MINUTE_S = 86_400, 60
_MESSAGE_TOKENS = 8  # what a chat format adds to a message, roughly
_MENTION_TOKENS = 16  # one entity in the answer's JSON


@dataclass(frozen=True)
class Usage:
    """Tokens of a call."""

    prompt: int
    completion: int

    @property
    def tokens(self) -> int:
        """Both together."""
        return self.prompt + self.completion

    def cost(self, endpoint: EndpointSettings) -> int:
        """Its price in millionths: a price for a million tokens is just that for one."""
        return round(self.prompt * endpoint.input_price + self.completion * endpoint.output_price)


def estimate(request: Request) -> Usage:
    """About what a call will use, rather too much than too little: a Han character is a token."""
    prompt = sum(text_tokens(message["content"]) + _MESSAGE_TOKENS for message in request.messages)
    completion = _MENTION_TOKENS * (1 + len(request.messages[-1]["content"]) // 6)
    return Usage(prompt, min(completion, request.model.max_tokens))


def text_tokens(text: str) -> int:
    """One token a character outside ASCII, one for three inside."""
    ascii_characters = sum(character.isascii() for character in text)
    return len(text) - ascii_characters + (ascii_characters + 2) // 3


class Budget:
    """Reserves before a call what it may use, and settles afterwards. A crash in between leaves it reserved."""

    def __init__(self, limits: Limits, store: AnswerStore, clock: Callable[[], float] = time.time) -> None:
        self._limits, self._store, self._clock = limits, store, clock

    def reserve(self, usage: Usage, micros: int) -> None:
        """Count a call. Raises LLMError with OVER_BUDGET or RATE_LIMITED, StoreError if it cannot be counted."""
        limits, now = self._limits, self._clock()
        minute = int(now // _MINUTE_S)
        left = 1.0 - now % _MINUTE_S / _MINUTE_S  # of the last minute still within sixty seconds

        def rate(kind: str, amount: int, limit: int) -> Charge:
            name, previous = (f"minute/{kind}/{which}" for which in (minute, minute - 1))
            return Charge(name, amount, 3 * _MINUTE_S, limit or None, previous, left)

        refused = self._store.charge(
            [
                self._daily("calls", 1, limits.calls_per_day),
                self._daily("tokens", usage.tokens, limits.tokens_per_day),
                self._daily("micros", micros, limits.money_per_day * MICRO),
                rate("requests", 1, limits.requests_per_minute),
                rate("tokens", usage.tokens, limits.tokens_per_minute),
            ]
        )
        if refused is not None and refused.startswith("day/"):
            raise LLMError(Reason.OVER_BUDGET, "the day's budget is spent")
        if refused is not None:
            raise LLMError(Reason.RATE_LIMITED, "the minute's calls or tokens are spent")

    def settle(self, reserved: Usage, used: Usage, reserved_micros: int, used_micros: int) -> None:
        """Put what was used in the place of what was reserved. Raises StoreError."""
        minute = int(self._clock() // _MINUTE_S)
        tokens = used.tokens - reserved.tokens
        self._store.charge(
            [
                self._daily("tokens", tokens, 0),
                self._daily("micros", used_micros - reserved_micros, 0),
                Charge(f"minute/tokens/{minute}", tokens, 3 * _MINUTE_S),
            ]
        )

    def spent_today(self) -> tuple[int, int, float]:
        """Calls, tokens and money of this day. Raises StoreError."""
        calls, tokens, micros = self._store.counters(
            [self._daily(kind, 0, 0).name for kind in ("calls", "tokens", "micros")]
        )
        return calls, tokens, micros / MICRO

    def _daily(self, kind: str, amount: int, limit: float) -> Charge:
        day = datetime.fromtimestamp(self._clock(), UTC).date().isoformat()
        return Charge(f"day/{kind}/{day}", amount, 2 * _DAY_S, limit or None)
