"""The last of what is chosen on honest scores: a weight of the vote for each type, and caution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from smallm.model_folder import Weights
from smallm_train import bootstrap
from smallm_train.bootstrap import Counts

RESAMPLES = 300
ALPHA_STEPS = (0.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
OTHER_STEPS = (0.0, -0.5, -0.25, 0.25, 0.5)


def refine(weights: Weights, types: int, counted: Callable[[Weights], Counts]) -> Weights:
    """Move each weight in turn by the mean, over resamples of the texts, of the step that is best for a resample.

    Where texts are few, resamples disagree and the mean is near zero: the step is as long as the evidence (bagging,
    Breiman 1996). `counted` are the counts (1, texts, 3) of the honest texts under given weights.
    """
    refined = replace(weights, alpha=weights.by_type(types))
    drawn = bootstrap.resample(counted(refined).shape[1], RESAMPLES)
    for move, steps in _moves(types):
        f1 = np.stack([bootstrap.mean_f1(counted(move(refined, step)), drawn) for step in steps])
        refined = move(refined, float(np.mean(np.array(steps)[f1.argmax(axis=0)])))  # of equals the first: no step
    return refined


def _moves(types: int) -> Iterator[tuple[Callable[[Weights, float], Weights], tuple[float, ...]]]:
    yield lambda weights, step: replace(weights, caution=weights.caution + step), OTHER_STEPS
    yield lambda weights, step: replace(weights, gamma=max(0.0, weights.gamma + step)), OTHER_STEPS
    for index in range(types + 1):
        yield _of_type(index), ALPHA_STEPS


def _of_type(index: int) -> Callable[[Weights, float], Weights]:
    def move(weights: Weights, step: float) -> Weights:
        alpha = list(weights.alpha)
        alpha[index] = max(0.0, alpha[index] + step)
        return replace(weights, alpha=tuple(alpha))

    return move
