"""What a head's emissions, the LLM's spans and the choice made on dev give: entities with score and source.

Training-time evaluation and the server both end here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from smallm.alignment import Offsets, tags_to_spans
from smallm.crf import Array, run_posteriors, viterbi
from smallm.documents import Span
from smallm.labels import LabelSet
from smallm.votes import one_hot

HeadFunction = Callable[[NDArray[np.floating], Array], Array]
"""Features (n, layers, hidden) and votes (n, N) to emissions (n, N)."""


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


@dataclass(frozen=True)
class Decoder:
    """The CRF of one domain. `start` (N,) and `transitions` (N, N) as `smallm.crf.constrained` gives them."""

    labels: LabelSet
    start: Array
    transitions: Array
    temperature: float = 1.0  # calibrates `confidence`, and nothing else

    def tags(self, emissions: Array) -> list[int]:
        """The best tag sequence of emissions (n, N)."""
        return viterbi(emissions, self.start, self.transitions)

    def confidence(self, emissions: Array) -> float:
        """Posterior probability of the whole best tag sequence of emissions (n, N), after temperature; 1 for n = 0.

        Emissions and transitions are divided by the temperature (Guo et al. 2017); the best sequence stays the best.
        """
        if not len(emissions):
            return 1.0
        whole = [(0, len(emissions))]
        tempered, transitions = emissions / self.temperature, self.transitions / self.temperature
        return run_posteriors(tempered, self.start, transitions, self.tags(emissions), whole)[0]

    def scored(self, emissions: Array, tags: list[int], offsets: Offsets) -> list[tuple[Span, float]]:
        """The spans of `tags` with their posterior probabilities under `emissions`."""
        runs = self.labels.decode(tags)
        posteriors = run_posteriors(
            emissions, self.start, self.transitions, tags, [(run.start, run.end) for run in runs]
        )
        by_start = {
            offsets[run.start][0]: posterior for run, posterior in reversed(list(zip(runs, posteriors, strict=True)))
        }
        return [(span, by_start[span.start]) for span in tags_to_spans(tags, offsets, self.labels)]


def head_inputs(features: NDArray[np.floating], votes: Array) -> dict[str, Array]:
    """The inputs of a head graph for one text: a batch of one, nothing masked."""
    mask = np.ones((1, len(votes)), dtype=np.float32)
    return {"features": features[None].astype(np.float32, copy=False), "votes": votes[None], "mask": mask}


def recognize(
    features: NDArray[np.floating],
    offsets: Offsets,
    answer: Sequence[Span] | None,
    head: HeadFunction,
    decoder: Decoder,
    way: Way,
) -> list[Entity]:
    """Entities of one text, ascending. Without an LLM answer (None) every way is the local one."""
    if not len(offsets):
        return []
    votes = one_hot(answer, offsets, decoder.labels)
    emissions = head(features, np.zeros_like(votes))
    tags = decoder.tags(emissions)
    found = set(tags_to_spans(tags, offsets, decoder.labels))
    if answer is not None and way is not Way.LOCAL:
        emissions = head(features, votes)
        tags = decoder.tags(emissions) if way is Way.FUSED else [int(tag) for tag in votes.argmax(axis=1)]
    scored = decoder.scored(emissions, tags, offsets)
    return [Entity(span, score, _source(span, answer, found)) for span, score in scored]


def _source(span: Span, answer: Sequence[Span] | None, local: set[Span]) -> Source:
    if answer is None or span not in answer:
        return Source.LOCAL
    return Source.BOTH if span in local else Source.LLM
