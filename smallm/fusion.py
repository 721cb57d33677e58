"""What a head's emissions, the LLM's spans and the choice made on dev give: entities with score and source.

Training-time evaluation and the server both end here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from smallm.alignment import Offsets, tags_to_spans
from smallm.crf import Array, run_posteriors, viterbi
from smallm.documents import Span
from smallm.labels import LabelSet


class Way(StrEnum):
    """The three ways to answer; training chooses one on dev (never ship less than the best of them)."""

    LLM = "llm"
    LOCAL = "local"
    FUSED = "fused"


class Source(StrEnum):
    """Who found an entity with this very span and type; LOCAL for what only the head came to."""

    LLM = "llm"
    LOCAL = "local"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Entity:
    """A recognised span. `score` is the CRF's posterior probability of its tags, 0 to 1."""

    span: Span
    score: float
    source: Source


@dataclass(frozen=True, slots=True)
class Temperatures:
    """What emissions and transitions are divided by before probabilities are taken, without and with an LLM answer.

    Fitted after training (Guo et al. 2017); the best tags stay the best.
    """

    local: float
    fused: float


UNTEMPERED = Temperatures(1.0, 1.0)


@dataclass(frozen=True)
class Decoded:
    """What a head says of one text of n tokens, whether this module or a head's graph decoded it.

    `tags` (n,) are BIO-legal; `scores` (n,) hold at an entity's first token the posterior probability of
    its tags, else 0. `local_tags` (n,) are those without an LLM answer, `local_confidence` the posterior of
    the least certain one, 1 for n = 0.
    """

    tags: NDArray[np.int64]
    scores: Array
    local_tags: NDArray[np.int64]
    local_confidence: float


@dataclass(frozen=True)
class Decoder:
    """The CRF of one domain. `start` (N,) and `transitions` (N, N) as `smallm.crf.constrained` gives them."""

    labels: LabelSet
    start: Array
    transitions: Array
    temperatures: Temperatures = UNTEMPERED

    def tags(self, emissions: Array) -> list[int]:
        """The best tag sequence of emissions (n, N)."""
        return viterbi(emissions, self.start, self.transitions)

    def confidence(self, emissions: Array) -> float:
        """Posterior probability of the least certain tag of the best sequence of local emissions (n, N); 1 for n = 0.

        That one tag tells better than the whole sequence whether a text is worth the LLM's time (docs/results.md).
        """
        each = [(index, index + 1) for index in range(len(emissions))]
        return min(self._posteriors(emissions, self.tags(emissions), each, self.temperatures.local), default=1.0)

    def answered(self, emissions: Array, votes: Array, way: Way) -> tuple[NDArray[np.int64], Array]:
        """`tags` and `scores` (see Decoded) of a text that has votes, by a way that uses them."""
        tags = [int(tag) for tag in votes.argmax(axis=1)] if way is Way.LLM else self.tags(emissions)
        return np.array(tags, dtype=np.int64), self._scores(emissions, tags, self.temperatures.fused)

    def decode(self, emissions: Array, local: Array, votes: Array, way: Way) -> Decoded:
        """One text, given fused and local emissions and votes, (n, N) each. Without votes every way is local."""
        found = self.tags(local)
        tags = np.array(found, dtype=np.int64)
        if way is Way.LOCAL or not votes.any():
            return Decoded(tags, self._scores(local, found, self.temperatures.local), tags, self.confidence(local))
        return Decoded(*self.answered(emissions, votes, way), tags, self.confidence(local))

    def _scores(self, emissions: Array, tags: list[int], temperature: float) -> Array:
        runs = self.labels.decode(tags)
        scores = np.zeros(len(tags), dtype=np.float32)
        scores[[run.start for run in runs]] = self._posteriors(
            emissions, tags, [(run.start, run.end) for run in runs], temperature
        )
        return scores

    def _posteriors(
        self, emissions: Array, tags: list[int], runs: list[tuple[int, int]], temperature: float
    ) -> list[float]:
        return run_posteriors(emissions / temperature, self.start, self.transitions / temperature, tags, runs)


def entities(decoded: Decoded, offsets: Offsets, answer: Sequence[Span] | None, labels: LabelSet) -> list[Entity]:
    """Entities of one text, ascending, given the LLM's spans for it or None."""
    tags = [int(tag) for tag in decoded.tags]
    runs = labels.decode(tags)
    # Two runs may begin in one character (㎡ is two tokens); the first of them is the one that stays.
    scores = {offsets[run.start][0]: float(decoded.scores[run.start]) for run in reversed(runs)}
    local = set(tags_to_spans([int(tag) for tag in decoded.local_tags], offsets, labels)) if answer else set()
    return [
        Entity(span, scores[span.start], _source(span, answer, local)) for span in tags_to_spans(tags, offsets, labels)
    ]


def _source(span: Span, answer: Sequence[Span] | None, local: set[Span]) -> Source:
    if answer is None or span not in answer:
        return Source.LOCAL
    return Source.BOTH if span in local else Source.LLM
