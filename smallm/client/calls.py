"""What is called and waited for, as generators: they yield a step and are sent what came of it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from smallm.client.answers import Outcome, outcome_of
from smallm.client.retry import Tries
from smallm.errors import ServerError, TryAgainError
from smallm.ner.v1 import ner_pb2


@dataclass(frozen=True)
class Call:
    """Make the call; send the response, or the ServerError."""

    request: Any
    timeout_s: float | None


@dataclass(frozen=True)
class Wait:
    """Wait; send None."""

    seconds: float


Script = Generator[Call | Wait, Any, Any]


def unary(request: Any, tries: Tries) -> Script:
    """One call until it succeeds; returns the response. Raises ServerError."""
    while True:
        answer = yield Call(request, tries.left_s)
        if not isinstance(answer, ServerError):
            return answer
        yield Wait(tries.wait_s(answer))


def batch(requests: Sequence[ner_pb2.RecognizeRequest], tries: Tries) -> Script:
    """One call; its items that failed for now are called again. Returns an outcome a request.

    Raises ServerError if the first call fails as a whole.
    """
    outcomes: dict[int, Outcome] = {}
    waiting = list(range(len(requests)))
    while waiting:
        try:
            message = ner_pb2.BatchRecognizeRequest(items=[requests[index] for index in waiting])
            response = yield from unary(message, tries)
            if len(response.items) != len(waiting):
                raise ServerError("INTERNAL", f"{len(response.items)} answers to {len(waiting)} texts")
            outcomes.update((index, outcome_of(item)) for index, item in zip(waiting, response.items, strict=True))
            failed = {index: one for index in waiting if isinstance(one := outcomes[index], TryAgainError)}
            waiting = list(failed)
            if failed:
                yield Wait(tries.wait_s(max(failed.values(), key=lambda error: error.retry_after_s or 0.0)))
        except ServerError:
            if not outcomes:
                raise
            break
    return [outcomes[index] for index in range(len(requests))]
