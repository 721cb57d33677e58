"""Full fine-tuning: every weight of the encoder, a linear layer and a CRF (Devlin et al. 2019, and a CRF)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModel

from smallm.labels import LabelSet
from smallm_train.data import Split
from smallm_train.experiment.systems.base import Outcome
from smallm_train.experiment.systems.tagger import Encoded, Tagger, encode, fit_and_predict, zero
from smallm_train.features import FrozenEncoder


@dataclass(frozen=True)
class FineTuningOptions:
    """Learning rates of the encoder and of the new layers above it, and the length of training."""

    learning_rate: float = 1e-4
    head_learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    dropout: float = 0.1
    max_epochs: int = 40
    patience: int = 8
    batch_size: int = 8


class FineTuning:
    """See the module. The LLM is not used; the encoder starts from the frozen one's weights."""

    trained = True
    uses_encoder = True
    needs_answers = False
    options = FineTuningOptions

    def run(
        self,
        train: Split,
        dev: Split,
        test: Split,
        labels: LabelSet,
        encoder: FrozenEncoder | None,
        seed: int,
        options: FineTuningOptions,
    ) -> Outcome:
        """See `System.run`."""
        assert encoder is not None
        torch.manual_seed(seed)
        network = _Network(encoder, labels.num_tags, options.dropout)
        tagger = Tagger(network, labels, encoder.window)
        groups = [
            {"params": list(network.encoder.parameters()), "lr": options.learning_rate},
            {"params": [*network.last.parameters(), *tagger.crf.parameters()], "lr": options.head_learning_rate},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=options.weight_decay)

        def encoded(split: Split) -> list[Encoded]:
            tokens = encoder.tokenizer.encode_batch([document.text for document in split.documents])
            pairs = zip(split.documents, tokens, strict=True)
            return [encode(document, one.ids, one.offsets, labels) for document, one in pairs]

        return fit_and_predict(
            "finetune", tagger, (encoded(train), encoded(dev), encoded(test)), optimizer, options, seed
        )


class _Network(nn.Module):
    """Ids (b, n) and mask (b, n) to emissions (b, n, N); [CLS] and [SEP] are added and taken away inside."""

    def __init__(self, encoder: FrozenEncoder, num_tags: int, dropout: float) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(
            encoder.encoder.folder, local_files_only=True, add_pooling_layer=False, dtype=torch.float32
        )
        tokenizer = encoder.tokenizer
        self.cls_id, self.sep_id, self.pad_id = tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id
        self.dropout = nn.Dropout(dropout)
        self.last = zero(nn.Linear(encoder.hidden, num_tags))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See the class."""
        rows, longest = ids.shape
        lengths = mask.sum(1)
        whole = torch.full((rows, longest + 2), self.pad_id)
        whole[:, 0] = self.cls_id
        whole[:, 1:-1] = torch.where(mask, ids, self.pad_id)
        whole[torch.arange(rows), lengths + 1] = self.sep_id
        attention = torch.arange(longest + 2)[None] < (lengths + 2)[:, None]
        states = self.encoder(whole, attention_mask=attention.long()).last_hidden_state[:, 1:-1]
        emissions: torch.Tensor = self.last(self.dropout(states))
        return emissions
