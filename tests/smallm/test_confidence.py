"""The decoder's confidence against enumeration of every tag sequence."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from smallm.crf import constrained
from smallm.fusion import Decoder, Temperatures
from smallm.labels import LabelSet


def brute(decoder: Decoder, emissions: NDArray[np.float32]) -> float:
    paths, scores = [], []
    for tags in product(range(decoder.labels.num_tags), repeat=len(emissions)):
        if not decoder.labels.legal(None, tags[0]):
            continue
        if all(decoder.labels.legal(*pair) for pair in zip(tags, tags[1:], strict=False)):
            score = sum(emissions[index, tag] for index, tag in enumerate(tags))
            score += sum(decoder.transitions[pair] for pair in zip(tags, tags[1:], strict=False))
            paths.append(np.array(tags))
            scores.append(float(score) / decoder.temperatures.local)
    weights, best = np.exp(scores), paths[int(np.argmax(scores))]
    agree = np.array([path == best for path in paths])
    return float((agree * weights[:, None]).sum(0).min() / weights.sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_confidence_is_the_posterior_of_the_least_certain_tag(temperature: float) -> None:
    generator, labels = np.random.default_rng(0), LabelSet(("A", "B"))
    for length in (1, 2, 4):
        transitions = generator.normal(size=(5, 5)).astype(np.float32)
        decoder = Decoder(labels, *constrained(transitions, labels), Temperatures(temperature, 1.0))
        emissions = generator.normal(size=(length, 5)).astype(np.float32)
        assert decoder.confidence(emissions) == pytest.approx(brute(decoder, emissions), rel=1e-4)


def test_temperature_changes_how_sure_it_is_and_not_of_what() -> None:
    labels = LabelSet(("A",))
    sharp = Decoder(labels, *constrained(np.zeros((3, 3), dtype=np.float32), labels), Temperatures(0.1, 1.0))
    emissions = np.array([[0, 1, 0], [0, 0, 1]], dtype=np.float32)
    soft = replace(sharp, temperatures=Temperatures(10.0, 1.0))
    assert sharp.tags(emissions) == soft.tags(emissions) == [1, 2]
    assert sharp.confidence(emissions) > 0.99 > 0.5 > soft.confidence(emissions)
    assert sharp.confidence(np.zeros((0, 3), dtype=np.float32)) == 1.0
