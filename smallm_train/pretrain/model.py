"""BERT with a masked-language head and three supervised heads, and its losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForMaskedLM

from smallm_train.pretrain.batches import NO_LABEL, Batch
from smallm_train.pretrain.corpus import BOUNDARIES, PARTS_OF_SPEECH


@dataclass(frozen=True)
class EncoderSize:
    """Shape of the encoder. `positions` counts [CLS] and [SEP]."""

    layers: int = 4
    hidden: int = 256
    heads: int = 4
    positions: int = 256

    def config(self, vocabulary_size: int) -> BertConfig:
        """The Hugging Face configuration of this size."""
        return BertConfig(
            vocab_size=vocabulary_size,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.hidden,
            max_position_embeddings=self.positions,
            type_vocab_size=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )


class PretrainingModel(nn.Module):
    """`mlm` is a BertForMaskedLM, the part that is shipped; the other heads only shape it."""

    def __init__(self, mlm: BertForMaskedLM, entity_tags: Sequence[int]) -> None:
        """`entity_tags`: how many tags each kind of silver data has."""
        super().__init__()
        self.mlm, config = mlm, mlm.config
        self.boundary = nn.Linear(config.hidden_size, len(BOUNDARIES))
        self.part = nn.Linear(config.hidden_size, len(PARTS_OF_SPEECH))
        self.entity = nn.ModuleList(nn.Linear(config.hidden_size, count) for count in entity_tags or [1])

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Logits by task; those of `mlm` only at the masked positions, in row-major order."""
        hidden = self.mlm.bert(batch.ids, attention_mask=batch.attention).last_hidden_state
        return {
            "mlm": self.mlm.cls(hidden[batch.targets != NO_LABEL]),
            "boundary": self.boundary(hidden),
            "part": self.part(hidden),
            "entity": self.entity[batch.kind](hidden),
        }


def task_targets(batch: Batch) -> dict[str, torch.Tensor]:
    """Targets by task, flat, aligned with the flattened logits of `PretrainingModel.forward`."""
    return {
        "mlm": batch.targets[batch.targets != NO_LABEL],
        "boundary": batch.boundaries.flatten(),
        "part": batch.parts.flatten(),
        "entity": batch.entities.flatten(),
    }


def losses(logits: dict[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
    """Mean cross-entropy of each task that has a target in the batch."""
    return {
        task: cross_entropy(logits[task].float().reshape(-1, logits[task].shape[-1]), target)
        for task, target in task_targets(batch).items()
        if bool((target != NO_LABEL).any())
    }
