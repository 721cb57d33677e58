"""Viterbi and posteriors against the sum over all tag sequences."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from smallm.crf import Array, constrained, run_posteriors, viterbi
from smallm.labels import LabelSet

LABELS = LabelSet(("A", "B"))


def score(tags: tuple[int, ...], emissions: Array, start: Array, transitions: Array) -> float:
    total = float(start[tags[0]] + sum(emissions[i, tag] for i, tag in enumerate(tags)))
    return total + float(sum(transitions[a, b] for a, b in zip(tags, tags[1:], strict=False)))


@pytest.mark.parametrize("seed", range(5))
def test_against_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    emissions = rng.normal(size=(5, 5)).astype(np.float32) * 2
    start, transitions = constrained(rng.normal(size=(5, 5)).astype(np.float32), LABELS)
    scores = {tags: score(tags, emissions, start, transitions) for tags in product(range(5), repeat=5)}
    best = max(scores, key=lambda tags: scores[tags])
    assert tuple(viterbi(emissions, start, transitions)) == best
    total = sum(np.exp(value) for value in scores.values())
    runs = [(0, 2), (2, 5), (3, 4)]
    expected = [
        sum(np.exp(value) for tags, value in scores.items() if tags[first:end] == best[first:end]) / total
        for first, end in runs
    ]
    assert run_posteriors(emissions, start, transitions, list(best), runs) == pytest.approx(expected, abs=1e-4)


def test_no_illegal_move_whatever_the_emissions() -> None:
    rng = np.random.default_rng(7)
    start, transitions = constrained(np.zeros((5, 5), dtype=np.float32), LABELS)
    for _ in range(50):
        tags = viterbi(rng.normal(size=(20, 5)).astype(np.float32) * 50, start, transitions)
        assert all(LABELS.legal(a, b) for a, b in zip([None, *tags], tags, strict=False))


def test_an_empty_text() -> None:
    start, transitions = constrained(np.zeros((5, 5), dtype=np.float32), LABELS)
    assert viterbi(np.zeros((0, 5), dtype=np.float32), start, transitions) == []
