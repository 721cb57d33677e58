"""The texts of a stream that were read and have no answer yet. Knows neither threads nor event loops."""

from __future__ import annotations

import heapq
import time

from smallm.client.answers import Outcome, outcome_of
from smallm.client.retry import Retry, Tries
from smallm.errors import TryAgainError
from smallm.ner.v1 import ner_pb2


class Backlog:
    """At most `window` texts. On the wire they have ids of our own: the caller's may repeat."""

    def __init__(self, window: int, policy: Retry) -> None:
        self._window, self._policy = window, policy
        self._read = 0
        self._open: dict[str, tuple[str, ner_pb2.RecognizeRequest, Tries]] = {}
        self._unsent: list[tuple[float, int]] = []  # a heap of (not before, number)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def full(self) -> bool:
        """Whether no further text may be read."""
        return len(self._open) >= self._window

    def add(self, id_: str, request: ner_pb2.RecognizeRequest) -> None:
        """A text that was read."""
        self._open[str(self._read)] = (id_, request, Tries(self._policy, None))
        heapq.heappush(self._unsent, (0.0, self._read))
        self._read += 1

    def send_all_again(self) -> None:
        """The connection is a new one."""
        self._unsent = [(0.0, int(number)) for number in self._open]
        heapq.heapify(self._unsent)

    def due_s(self) -> float | None:
        """Seconds until something is to be sent, 0 for now; None if nothing is."""
        return max(0.0, self._unsent[0][0] - time.monotonic()) if self._unsent else None

    def next(self) -> ner_pb2.StreamRecognizeRequest:
        """What is to be sent now."""
        number = str(heapq.heappop(self._unsent)[1])
        return ner_pb2.StreamRecognizeRequest(id=number, request=self._open[number][1])

    def take(self, response: ner_pb2.StreamRecognizeResponse) -> tuple[str, Outcome] | None:
        """The caller's id and the outcome; None if the text is to be sent again, or was answered already."""
        if response.id not in self._open:
            return None
        id_, _, tries = self._open[response.id]
        outcome = outcome_of(response)
        if isinstance(outcome, TryAgainError):
            try:
                heapq.heappush(self._unsent, (time.monotonic() + tries.wait_s(outcome), int(response.id)))
                return None
            except TryAgainError:
                pass
        del self._open[response.id]
        return id_, outcome
