"""The answers to the canary texts, recorded at export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallm.canaries import Canary, questions
from smallm.documents import Span
from smallm.fusion import Decoded, entities
from smallm.labels import LabelSet
from smallm.votes import one_hot
from smallm_export.parity import Graphs


@dataclass(frozen=True)
class _Asked:
    ids: NDArray[np.int64]
    votes: NDArray[np.float32]
    tags: NDArray[np.int64]


def record(variants: dict[str, Graphs], labels: LabelSet) -> list[dict[str, Any]]:
    """The canaries of a domain for the manifest: those that all `variants` answer alike."""
    kept = []
    for text, answer in questions(labels.types):
        answers = {name: _answer(graphs, text, answer, labels) for name, graphs in variants.items()}
        found = [spans for spans, _ in answers.values()]
        if all(spans == found[0] for spans in found):
            confidence = {name: round(one, 4) for name, (_, one) in answers.items()}
            kept.append(Canary(text, answer, found[0], confidence).to_json())
    return kept


def _answer(graphs: Graphs, text: str, answer: list[Span] | None, labels: LabelSet) -> tuple[list[Span], float]:
    tokens = graphs.tokenizer.encode(text)
    votes = one_hot(answer, tokens.offsets, labels)
    asked = _Asked(np.array(tokens.ids, dtype=np.int64), votes, np.zeros(len(tokens), dtype=np.int64))
    tags, scores, local, confidence = (
        value[0] for value in graphs.run([asked], ["tags", "scores", "local_tags", "local_confidence"])
    )
    found = entities(Decoded(tags, scores, local, float(confidence)), tokens.offsets, answer, labels)
    return [entity.span for entity in found], float(confidence)
