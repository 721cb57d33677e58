"""Token blocks to training batches: whole-word masking and padding, a pure function of the seed."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from smallm.alignment import spans_to_tags
from smallm.documents import Document
from smallm.labels import LabelSet
from smallm.tokenization import TextTokenizer
from smallm_train.pretrain.corpus import IGNORED, TokenStream, label_words

NO_LABEL = -100  # torch's cross_entropy default
PADDING = 128  # batches are padded to multiples of it: few shapes, so that a compiled model compiles seldom
SILVER_PADDING = 64


@dataclass
class Batch:
    """Padded tensors, all of shape (batch, length); NO_LABEL where a task has no target.

    `kind` tells which silver data `entities` are tags of.
    """

    ids: torch.Tensor
    attention: torch.Tensor
    targets: torch.Tensor
    boundaries: torch.Tensor
    parts: torch.Tensor
    entities: torch.Tensor
    kind: int = 0

    @property
    def tokens(self) -> int:
        """Number of tokens that are not padding."""
        return int(self.attention.sum())

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`."""
        tensors = {part.name: getattr(self, part.name).to(device) for part in fields(self) if part.name != "kind"}
        return replace(self, **tensors)


@dataclass(frozen=True)
class Example:
    """One block without special tokens; arrays of one length, IGNORED where unlabelled."""

    ids: NDArray[np.int64]
    boundaries: NDArray[np.int64]
    parts: NDArray[np.int64]
    entities: NDArray[np.int64]
    kind: int = 0


def block_example(stream: TokenStream, start: int, end: int) -> Example:
    """The tokens `start` to `end` of a stream; without entity labels."""
    ids = stream.ids[start:end].astype(np.int64)
    return Example(
        ids,
        stream.boundaries[start:end].astype(np.int64),
        stream.parts[start:end].astype(np.int64),
        np.full(len(ids), IGNORED),
    )


def silver_example(document: Document, labels: LabelSet, tokenizer: TextTokenizer, kind: int = 0) -> Example:
    """A silver-annotated sentence with the BIO tags of its kind of silver data."""
    tokens = tokenizer.encode(document.text)
    boundaries, parts = label_words(document.text, tokens.offsets)
    tags = spans_to_tags(document.spans, tokens.offsets, labels)
    return Example(np.array(tokens.ids), np.array(boundaries), np.array(parts), np.array(tags), kind)


def collate(
    examples: list[Example],
    tokenizer: TextTokenizer,
    *,
    mask_share: float,
    rng: np.random.Generator,
    multiple: int = 1,
) -> Batch:
    """Pad examples between [CLS] and [SEP] to a multiple of `multiple` tokens and mask `mask_share` of the words.

    Silver examples have to be of one kind. Of the masked tokens
    80 % become [MASK], 10 % a random token, 10 % stay (BERT, Devlin et al. 2019);
    whole words are masked together (Cui et al. 2021).
    """
    longest = -(-(max(len(example.ids) for example in examples) + 2) // multiple) * multiple
    shape = (len(examples), longest)
    ids = np.full(shape, tokenizer.pad_id)
    attention = np.zeros(shape, dtype=np.int64)
    targets, boundaries, parts, entities = (np.full(shape, NO_LABEL) for _ in range(4))
    for row, example in enumerate(examples):
        inside = slice(1, len(example.ids) + 1)
        chosen = _choose_words(example.boundaries, mask_share, rng)
        ids[row, 0] = tokenizer.cls_id
        ids[row, inside] = _corrupt(example.ids, chosen, tokenizer, rng)
        ids[row, len(example.ids) + 1] = tokenizer.sep_id
        attention[row, : len(example.ids) + 2] = 1
        targets[row, inside] = np.where(chosen, example.ids, NO_LABEL)
        for padded, values in (
            (boundaries, example.boundaries),
            (parts, example.parts),
            (entities, example.entities),
        ):
            padded[row, inside] = np.where(values == IGNORED, NO_LABEL, values)
    return Batch(
        ids=torch.from_numpy(ids),
        attention=torch.from_numpy(attention),
        targets=torch.from_numpy(targets),
        boundaries=torch.from_numpy(boundaries),
        parts=torch.from_numpy(parts),
        entities=torch.from_numpy(entities),
        kind=examples[0].kind,
    )


def _choose_words(boundaries: NDArray[np.int64], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    starts = (boundaries == 0) | (boundaries == 3) | (boundaries == IGNORED)
    word = np.cumsum(starts)
    chosen = rng.random(int(word[-1]) + 1 if len(word) else 1)[word] < share
    return np.asarray(chosen & (boundaries != IGNORED))


def _corrupt(
    ids: NDArray[np.int64], chosen: NDArray[np.bool_], tokenizer: TextTokenizer, rng: np.random.Generator
) -> NDArray[np.int64]:
    dice = rng.random(len(ids))
    random_ids = rng.integers(5, tokenizer.vocabulary_size, len(ids))
    corrupted = np.where(chosen & (dice < 0.8), tokenizer.mask_id, ids)
    return np.where(chosen & (dice >= 0.9), random_ids, corrupted)
