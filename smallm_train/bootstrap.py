"""Confidence intervals and paired significance by resampling texts (Efron and Tibshirani 1993).

Texts are the unit, as sentences are for parsers in Berg-Kirkpatrick et al. (2012): entities of one text
are not independent. A resampled text brings the predictions of every seed with it, and the statistic is
the mean over seeds of micro F1, so the interval is of the number that is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallm.documents import Span

Counts = NDArray[np.int64]
"""(seeds, texts, 3): correct, predicted and gold entities."""
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure with the bounds of its confidence interval, as fractions."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """A difference of two figures, and the two-sided p of there being none."""

    p: float


def count(gold: Sequence[Sequence[Span]], seeds: Sequence[Sequence[Sequence[Span]]]) -> Counts:
    """Strict counts of every seed's predictions, text by text."""
    return np.array(
        [
            [
                [len(set(expected) & set(found)), len(set(found)), len(set(expected))]
                for expected, found in zip(gold, texts, strict=True)
            ]
            for texts in seeds
        ],
        dtype=np.int64,
    )


def resample(texts: int, resamples: int, seed: int = 0) -> NDArray[np.int64]:
    """How often each text is drawn, (resamples, texts). Every system of a dataset must be given the same ones."""
    return np.random.default_rng(seed).multinomial(texts, np.full(texts, 1 / texts), size=resamples)


def mean_f1(counts: Counts, weights: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Mean over seeds of micro F1: (resamples,), or a single one without weights."""
    drawn = np.ones((1, counts.shape[1]), dtype=np.int64) if weights is None else weights
    correct, predicted, gold = np.moveaxis(np.einsum("rt,stc->rsc", drawn, counts), -1, 0)
    total = predicted + gold
    f1 = np.divide(2 * correct, total, out=np.zeros(total.shape), where=total > 0)
    return np.asarray(f1.mean(axis=1), dtype=np.float64)


def interval(counts: Counts, weights: NDArray[np.int64]) -> Interval:
    """Mean F1 with its percentile interval."""
    return Interval(float(mean_f1(counts)[0]), *_bounds(mean_f1(counts, weights)))


def difference(first: Counts, second: Counts, weights: NDArray[np.int64]) -> Difference:
    """Mean F1 of `first` less that of `second` over the same texts; they may have different numbers of seeds.

    p is twice the smaller share of resamples on one side of zero, zero itself counting for both.
    """
    resampled = mean_f1(first, weights) - mean_f1(second, weights)
    value = float(mean_f1(first)[0] - mean_f1(second)[0])
    sides = [(np.count_nonzero(side) + 1) / (len(resampled) + 1) for side in (resampled <= 0, resampled >= 0)]
    return Difference(value, *_bounds(resampled), p=min(1.0, 2 * min(sides)))


def _bounds(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
