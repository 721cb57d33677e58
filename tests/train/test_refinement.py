"""Weights are moved by what the texts agree on."""

from __future__ import annotations

import numpy as np

from smallm.model_folder import Weights
from smallm_train.bootstrap import Counts
from smallm_train.refinement import refine

START = Weights((5.0,), 0.5)


def test_nothing_moves_where_nothing_changes() -> None:
    refined = refine(START, 2, lambda _: np.array([[[1, 2, 2]] * 20]))
    assert refined == Weights((5.0, 5.0, 5.0), 0.5)


def test_a_type_that_the_llm_gets_wrong_weighs_less_and_the_others_what_they_did() -> None:
    def counted(weights: Weights) -> Counts:
        found = 1 if weights.alpha[2] < 4.5 else 0
        return np.array([[[found, 1, 1]] * 20])

    refined = refine(START, 2, counted)
    assert refined.alpha[2] < 4.5 and refined.alpha[:2] == (5.0, 5.0)
    assert (refined.gamma, refined.caution) == (0.5, 0.0)


def test_texts_that_disagree_move_less_than_texts_that_agree() -> None:
    def moved(share: float) -> float:
        """The caution that results if it helps this share of the texts and harms the others."""

        def counted(weights: Weights) -> Counts:
            right = (np.arange(20) < 20 * share) == (weights.caution > 0.1)
            return np.stack([right, np.ones(20), np.ones(20)], axis=-1)[None].astype(np.int64)

        return refine(START, 2, counted).caution

    assert moved(1.0) > moved(0.55) > 0


def test_no_weight_falls_below_zero() -> None:
    def counted(weights: Weights) -> Counts:
        return np.array([[[max(0, round(10 - sum(weights.alpha) - weights.gamma)), 10, 10]] * 8])

    refined = refine(Weights((1.0,), 0.25), 1, counted)
    assert min(*refined.alpha, refined.gamma) >= 0
