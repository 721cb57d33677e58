"""An encoder under a linear layer and a CRF, of which a method says which weights learn."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModel

from smallm.documents import Document
from smallm.labels import LabelSet
from smallm_train.features import FrozenEncoder
from smallm_train.tagger import Encoded, Tagger, encode, zero


class Method(StrEnum):
    """LoRA (Hu et al. 2022), BitFit: the biases alone (Ben Zaken et al. 2022), or every weight."""

    LORA = "lora"
    BITFIT = "bitfit"
    FULL = "full"


ENCODER_RATES = {Method.LORA: 1e-3, Method.BITFIT: 1e-3, Method.FULL: 1e-4}


@dataclass(frozen=True)
class AdaptOptions:
    """`learning_rate` is the encoder's, 0 the method's own; `rank` is LoRA's, on every linear map of a layer."""

    method: Method = Method.LORA
    rank: int = 16
    learning_rate: float = 0.0
    head_learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    dropout: float = 0.1
    max_epochs: int = 40
    patience: int = 8
    batch_size: int = 8


class EncoderNetwork(nn.Module):
    """Ids (b, n) and mask (b, n) to emissions (b, n, N); [CLS] and [SEP] are added and taken away inside."""

    def __init__(self, encoder: FrozenEncoder, num_tags: int, options: AdaptOptions) -> None:
        super().__init__()
        model = AutoModel.from_pretrained(
            encoder.encoder.folder, local_files_only=True, add_pooling_layer=False, dtype=torch.float32
        )
        if options.method is Method.LORA:
            config = LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules="all-linear")
            model = get_peft_model(model, config)
        elif options.method is Method.BITFIT:  # no method of peft's, and nothing to merge
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name.endswith(".bias"))
        self.encoder, self._method = model, options.method
        tokenizer = encoder.tokenizer
        self.cls_id, self.sep_id, self.pad_id = tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id
        self.dropout = nn.Dropout(options.dropout)
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

    def merged(self) -> nn.Module:
        """The encoder as one plain model, what was learned beside its weights added to them."""
        merged: nn.Module = self.encoder.merge_and_unload() if self._method is Method.LORA else self.encoder
        return merged


def tagger(encoder: FrozenEncoder, labels: LabelSet, options: AdaptOptions) -> Tagger:
    """An untrained tagger over a copy of the encoder."""
    return Tagger(EncoderNetwork(encoder, labels.num_tags, options), labels, encoder.window)


def optimizer(tagger: Tagger, options: AdaptOptions) -> torch.optim.Optimizer:
    """AdamW with the method's rate inside the encoder and another above it."""
    network = tagger.network
    assert isinstance(network, EncoderNetwork)
    inside = [parameter for parameter in network.encoder.parameters() if parameter.requires_grad]
    groups = [
        {"params": inside, "lr": options.learning_rate or ENCODER_RATES[options.method]},
        {"params": [*network.last.parameters(), *tagger.crf.parameters()], "lr": options.head_learning_rate},
    ]
    return torch.optim.AdamW(groups, weight_decay=options.weight_decay)


def encoded(documents: list[Document], encoder: FrozenEncoder, labels: LabelSet) -> list[Encoded]:
    """The documents as a tagger sees them."""
    tokens = encoder.tokenizer.encode_batch([document.text for document in documents])
    return [encode(d, one.ids, one.offsets, labels) for d, one in zip(documents, tokens, strict=True)]
