"""Our strict scores equal seqeval's, on random tag sequences."""

from __future__ import annotations

import numpy as np
import pytest
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score
from seqeval.scheme import IOB2

from smallm.documents import Span
from smallm.labels import LabelSet
from smallm.scoring import calibration_error, score

LABELS = LabelSet(("A", "B", "C"))


def legal_tags(rng: np.random.Generator, length: int) -> list[int]:
    tags: list[int] = []
    while len(tags) < length:
        tag = int(rng.integers(LABELS.num_tags))
        if LABELS.legal(tags[-1] if tags else None, tag):
            tags.append(tag)
    return tags


@pytest.mark.parametrize("seed", range(4))
def test_micro_and_per_type_as_seqeval(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gold, guessed = ([legal_tags(rng, 12) for _ in range(40)] for _ in range(2))
    names = [[[LABELS.tags[tag] for tag in tags] for tags in part] for part in (gold, guessed)]
    spans = [[[Span(s.start, s.end, s.type) for s in LABELS.decode(tags)] for tags in part] for part in (gold, guessed)]
    ours = score(*spans)
    options = {"mode": "strict", "scheme": IOB2}
    assert ours["f1"] == pytest.approx(f1_score(*names, **options))
    assert ours["precision"] == pytest.approx(precision_score(*names, **options))
    assert ours["recall"] == pytest.approx(recall_score(*names, **options))
    report = classification_report(*names, output_dict=True, **options)
    for type_ in LABELS.types:
        assert ours["per_type"][type_]["f1"] == pytest.approx(report[type_]["f1-score"])


def test_nothing_found_is_zero_and_not_an_error() -> None:
    assert score([[Span(0, 1, "A")]], [[]])["f1"] == 0.0
    assert score([[]], [[]])["f1"] == 0.0


def test_calibration_error() -> None:
    assert calibration_error([]) == 0
    assert calibration_error([(1.0, True), (0.25, False), (0.25, False), (0.25, True), (0.25, False)]) == 0
    assert calibration_error([(0.95, True), (0.95, False)]) == pytest.approx(0.45)
    assert calibration_error([(0.0, True), (1.0, True)]) == 0.5
