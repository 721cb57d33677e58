"""What export changed: ONNX against PyTorch, and the final graphs against the fp32 ones, on reference texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from smallm.crf import Array
from smallm.fusion import Decoder
from smallm.labels import TagSpan
from smallm.model_folder import Reference
from smallm.tokenization import TextTokenizer

BATCH = 8


def head_inputs(features: Array, votes: Array) -> dict[str, Any]:
    """The inputs of a head graph for one text: features (n, layers, hidden) and votes (n, N)."""
    return {"features": features[None], "votes": votes[None], "lengths": np.array([len(votes)], dtype=np.int64)}


@dataclass(frozen=True)
class Graphs:
    """An encoder and a head under ONNX Runtime."""

    encoder: onnxruntime.InferenceSession
    head: onnxruntime.InferenceSession
    tokenizer: TextTokenizer

    @classmethod
    def load(cls, encoder: Path, head: Path, tokenizer: TextTokenizer) -> Graphs:
        """Open both graphs on the CPU."""
        options = {"providers": ["CPUExecutionProvider"]}
        return cls(
            onnxruntime.InferenceSession(encoder, **options), onnxruntime.InferenceSession(head, **options), tokenizer
        )

    def features(self, texts: Sequence[Reference]) -> list[Array]:
        """Features (n, layers, hidden) of each text, encoded in one padded batch."""
        stacked = self.encoder.run(None, self.tokenizer.encoder_inputs([text.ids.tolist() for text in texts]))[0]
        return [stacked[row, 1 : len(text.ids) + 1] for row, text in enumerate(texts)]

    def emissions(self, features: Array, votes: Array) -> Array:
        """Fused scores (n, N) of one text."""
        scores: Array = self.head.run(["emissions"], head_inputs(features, votes))[0][0]
        return scores


def measure(exact: Graphs, final: Graphs, texts: Sequence[Reference], decoder: Decoder) -> dict[str, Any]:
    """Figures for the manifest; `exact` are the fp32 graphs, `final` those in the bundle.

    max_difference: largest |emission| difference of the fp32 graphs from PyTorch;
    tag_agreement: share of tokens whose final tag equals PyTorch's; f1: spans against gold by
    PyTorch, fp32 and final; batch_flips: tags that change when a text shares a padded batch.
    """
    torch_tags = [decoder.tags(text.emissions) for text in texts]
    exact_scores = [exact.emissions(exact.features([text])[0], text.votes) for text in texts]
    alone = [decoder.tags(final.emissions(final.features([text])[0], text.votes)) for text in texts]
    chunks = [texts[first : first + BATCH] for first in range(0, len(texts), BATCH)]
    together = [
        decoder.tags(final.emissions(features, text.votes))
        for chunk in chunks
        for features, text in zip(final.features(chunk), chunk, strict=True)
    ]
    tokens = sum(len(tags) for tags in torch_tags)
    differences = [np.abs(scores - text.emissions).max() for scores, text in zip(exact_scores, texts, strict=True)]
    return {
        "texts": len(texts),
        "tokens": tokens,
        "max_difference": round(float(max(differences)), 6),
        "tag_agreement": round(1 - _differing(torch_tags, alone) / tokens, 6),
        "batch_flips": _differing(alone, together),
        "f1": {
            "pytorch": _f1(texts, torch_tags, decoder),
            "fp32": _f1(texts, [decoder.tags(scores) for scores in exact_scores], decoder),
            "final": _f1(texts, alone, decoder),
        },
    }


def _differing(one: list[list[int]], other: list[list[int]]) -> int:
    return sum(a != b for first, second in zip(one, other, strict=True) for a, b in zip(first, second, strict=True))


def _f1(texts: Sequence[Reference], guessed: list[list[int]], decoder: Decoder) -> float:
    correct = total = 0
    for text, tags in zip(texts, guessed, strict=True):
        gold: set[TagSpan] = set(decoder.labels.decode(text.tags.tolist()))
        found = set(decoder.labels.decode(tags))
        correct, total = correct + len(gold & found), total + len(gold) + len(found)
    return round(2 * correct / total, 6) if total else 0.0
