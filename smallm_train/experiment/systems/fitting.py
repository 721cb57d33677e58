"""The baselines that train a `smallm_train.tagger.Tagger`: timed, with one curve."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from smallm_train.experiment.systems.base import Curve, Outcome
from smallm_train.tagger import Encoded, Fitting, Tagger


def fit_and_predict(
    name: str,
    tagger: Tagger,
    splits: tuple[Sequence[Encoded], Sequence[Encoded], Sequence[Encoded]],
    optimizer: torch.optim.Optimizer,
    options: Fitting,
    seed: int,
) -> Outcome:
    """Train on the first split, choose on the second, predict the second and third as curve `name`.

    Without training texts nothing is predicted: the zero output layer has no opinion.
    """
    train, dev, test = splits
    begin = time.perf_counter()
    figures = tagger.fit(train, dev, optimizer, options, seed)
    seconds = time.perf_counter() - begin
    curve = Curve(tagger.predict(dev), tagger.predict(test))
    return Outcome({name: curve}, figures, tagger.num_parameters(), seconds)
