"""The LLM's answer as BIO votes. Absent (no answer) is an all-zero row, distinct from O."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from smallm.alignment import Offsets, spans_to_tags
from smallm.documents import Span
from smallm.labels import LabelSet


def one_hot(spans: Iterable[Span] | None, offsets: Offsets, labels: LabelSet) -> NDArray[np.float32]:
    """Votes of shape (n, N) in {0, 1}: zeros if `spans` is None, else one tag per token.

    Spans of a type outside the label set are votes for O, as anything the LLM left unlabelled.
    """
    votes = np.zeros((len(offsets), labels.num_tags), dtype=np.float32)
    if spans is not None:
        known = [span for span in spans if span.type in labels.types]
        tags = spans_to_tags(known, offsets, labels)
        votes[np.arange(len(offsets)), tags] = 1.0
    return votes
