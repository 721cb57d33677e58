"""Documents and LLM answers to what a head trains on: features, votes and gold tags, and their batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from smallm.alignment import spans_to_tags
from smallm.documents import Document, Span
from smallm.labels import LabelSet
from smallm.tokenization import Tokens
from smallm.votes import one_hot
from smallm_train.features import Features, FrozenEncoder

Answers = Sequence[Sequence[Span] | None]
"""One entry a document: the LLM's spans, or None where it is absent."""


@dataclass(frozen=True)
class Example:
    """One document: features (n, layers, hidden) fp16, votes (n, N), gold tags (n,)."""

    document: Document
    answer: Sequence[Span] | None
    tokens: Tokens
    features: Features
    votes: NDArray[np.float32]
    tags: NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Zero-padded tensors: features (b, n, layers, hidden), votes (b, n, N), tags and mask (b, n)."""

    features: torch.Tensor
    votes: torch.Tensor
    tags: torch.Tensor
    mask: torch.Tensor


def prepare(
    documents: Sequence[Document],
    answers: Answers,
    encoder: FrozenEncoder,
    labels: LabelSet,
    title: str = "encoding",
    *,
    keep: bool = True,
) -> list[Example]:
    """One example a document, in order. Gold spans of a type outside `labels` count as O; `keep` features on disk."""
    tokens = encoder.tokenizer.encode_batch([document.text for document in documents])
    features = encoder.features(tokens, title, keep=keep)
    return [
        Example(
            document,
            answer,
            encoded,
            states,
            one_hot(answer, encoded.offsets, labels),
            np.array(_gold(document, encoded, labels), dtype=np.int64),
        )
        for document, answer, encoded, states in zip(documents, answers, tokens, features, strict=True)
    ]


def collate(examples: Sequence[Example]) -> Batch:
    """Pad `examples`."""
    longest = max(len(example.tokens) for example in examples)
    shape = (len(examples), longest)
    features = np.zeros((*shape, *examples[0].features.shape[1:]), dtype=np.float32)
    votes = np.zeros((*shape, examples[0].votes.shape[1]), dtype=np.float32)
    tags, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.bool_)
    for row, example in enumerate(examples):
        length = len(example.tokens)
        features[row, :length] = example.features
        votes[row, :length] = example.votes
        tags[row, :length] = example.tags
        mask[row, :length] = True
    return Batch(*(torch.from_numpy(array) for array in (features, votes, tags, mask)))


def _gold(document: Document, tokens: Tokens, labels: LabelSet) -> list[int]:
    known = [span for span in document.spans if span.type in labels.types]
    return spans_to_tags(known, tokens.offsets, labels)
