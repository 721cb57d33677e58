"""What a head learns from: labelled texts in folds, variants of them, and the LLM's answers to unlabelled texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallm.documents import Document, Span
from smallm.labels import LabelSet
from smallm_train.adapt.folder import unseen
from smallm_train.data import Split
from smallm_train.examples import Example, prepare
from smallm_train.features import FrozenEncoder

REPLACED = 0.5  # of a variant's mentions
Folds = NDArray[np.int64]


@dataclass(frozen=True)
class Material:
    """`folds` of `labelled` and `variant_folds` of `variants`: the member of that number does not learn from it.

    A variant has labels but no LLM answer; of an unlabelled text there is only the answer. `honest` are indices of the
    labelled texts that the encoder has not learned from.
    """

    labelled: Sequence[Example]
    folds: Folds
    variants: Sequence[Example] = ()
    variant_folds: Sequence[int] = ()
    unlabelled: Sequence[Example] = ()
    honest: Sequence[int] | None = None

    @property
    def known(self) -> list[tuple[Example, int]]:
        """The labelled texts whose own fold's scores are honest, with their folds."""
        chosen = range(len(self.labelled)) if self.honest is None else self.honest
        return [(self.labelled[index], int(self.folds[index])) for index in chosen]


def gather(
    train: Split, unlabelled: Split, encoder: FrozenEncoder, labels: LabelSet, members: int, seed: int
) -> Material:
    """Encode `train` and `unlabelled`, deal out folds, and make one variant of each labelled text."""
    labelled = prepare(train.documents, train.answers, encoder, labels, "encoding train")
    folds = np.random.default_rng(seed).permutation(len(labelled)) % members
    variants = vary(train.documents, folds, seed) if members > 1 else []
    documents = [document for document, _ in variants]
    return Material(
        labelled,
        folds,
        prepare(documents, [None] * len(documents), encoder, labels, "encoding variants", keep=False),
        [fold for _, fold in variants],
        prepare(unlabelled.documents, unlabelled.answers, encoder, labels, "encoding unlabelled"),
        unseen(encoder.encoder, [document.text for document in train.documents]),
    )


def vary(documents: Sequence[Document], folds: Folds, seed: int) -> list[tuple[Document, int]]:
    """A variant of each document with entities, some of its mentions replaced by others of their type, and its fold.

    Mention replacement (Dai and Adel 2020). Mentions come from the same fold, or a member would learn from its own.
    """
    rng = np.random.default_rng((seed, 1))
    mentions: dict[tuple[int, str], list[str]] = {}
    for document, fold in zip(documents, folds, strict=True):
        for span in document.spans:
            mentions.setdefault((int(fold), span.type), []).append(document.text[span.start : span.end])
    variants = []
    for document, fold in zip(documents, folds, strict=True):
        text, spans, end = "", [], 0
        for span in sorted(document.spans):
            others = mentions[int(fold), span.type]
            mention = document.text[span.start : span.end]
            if rng.random() < REPLACED:
                mention = others[rng.integers(len(others))]
            text += document.text[end : span.start]
            spans.append(Span(len(text), len(text) + len(mention), span.type))
            text, end = text + mention, span.end
        if spans:
            variants.append((Document(document.id, text + document.text[end:], tuple(spans)), int(fold)))
    return variants
