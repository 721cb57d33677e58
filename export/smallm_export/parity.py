"""An encoder and a head under ONNX Runtime, and how far the fp32 ones are from PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from smallm.crf import Array
from smallm.fusion import Decoder
from smallm.labels import LabelSet, TagSpan
from smallm.model_folder import Reference
from smallm.tokenization import TextTokenizer

Tags = NDArray[np.int64]


class Text(Protocol):
    """What is measured on: token ids (n,), votes (n, N) and gold tags (n,) of a text that fits one window."""

    @property
    def ids(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def votes(self) -> Array: ...  # noqa: D102
    @property
    def tags(self) -> Tags: ...  # noqa: D102


@dataclass(frozen=True)
class Graphs:
    """An encoder and a head."""

    encoder: onnxruntime.InferenceSession
    head: onnxruntime.InferenceSession
    tokenizer: TextTokenizer

    @classmethod
    def load(cls, encoder: Path, head: Path, tokenizer: TextTokenizer) -> Graphs:
        """Open both graphs on the CPU."""
        first, second = (
            onnxruntime.InferenceSession(one, providers=["CPUExecutionProvider"]) for one in (encoder, head)
        )
        return cls(first, second, tokenizer)

    def tags(self, batches: Sequence[Sequence[Text]]) -> list[tuple[Tags, Tags]]:
        """Tags of each text with its votes and without, in the order of the batches."""
        found = []
        for texts in batches:
            tags, local = self.run(texts, ["tags", "local_tags"])
            found += [(tags[row, : len(text.ids)], local[row, : len(text.ids)]) for row, text in enumerate(texts)]
        return found

    def run(self, texts: Sequence[Text], outputs: Sequence[str]) -> list[Any]:
        """The head's `outputs` for texts in one padded batch."""
        return list(self.head.run(list(outputs), self.head_feed(texts)))

    def head_feed(self, texts: Sequence[Text]) -> dict[str, NDArray[Any]]:
        """The inputs of the head for texts in one padded batch."""
        stacked = self.encoder.run(None, self.tokenizer.encoder_inputs([text.ids.tolist() for text in texts]))[0]
        lengths = np.array([len(text.ids) for text in texts], dtype=np.int64)
        votes = np.zeros((len(texts), max(1, int(lengths.max())), texts[0].votes.shape[1]), dtype=np.float32)
        for row, text in enumerate(texts):
            votes[row, : lengths[row]] = text.votes
        return {"features": stacked[:, 1 : votes.shape[1] + 1], "votes": votes, "lengths": lengths}


def against_torch(exact: Graphs, texts: Sequence[Reference], decoder: Decoder) -> dict[str, Any]:
    """Figures for the manifest: fp32 graphs against what PyTorch said of the reference texts.

    max_difference: largest |emission| difference; tag_agreement: share of tokens whose tag is the same.
    """
    scores = [exact.run([text], ["emissions"])[0][0] for text in texts]
    differences = [float(np.abs(found - text.emissions).max()) for found, text in zip(scores, texts, strict=True)]
    same = [
        int((np.array(decoder.tags(found)) == np.array(decoder.tags(text.emissions))).sum())
        for found, text in zip(scores, texts, strict=True)
    ]
    tokens = sum(len(text.ids) for text in texts)
    agreement = round(sum(same) / tokens, 6)
    return {"texts": len(texts), "max_difference": round(max(differences), 6), "tag_agreement": agreement}


def f1(texts: Sequence[Text], guessed: Sequence[Tags], labels: LabelSet) -> float:
    """Strict micro F1 of entities."""
    correct = total = 0
    for text, tags in zip(texts, guessed, strict=True):
        gold: set[TagSpan] = set(labels.decode([int(tag) for tag in text.tags]))
        found = set(labels.decode([int(tag) for tag in tags]))
        correct, total = correct + len(gold & found), total + len(gold) + len(found)
    return 2 * correct / total if total else 0.0
