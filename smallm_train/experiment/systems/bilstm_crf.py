"""Character embeddings, a bidirectional LSTM and a CRF from scratch (Huang et al. 2015; Lample et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from smallm.documents import Document
from smallm.labels import LabelSet
from smallm_train.data import Split
from smallm_train.experiment.systems.base import Outcome, Part
from smallm_train.experiment.systems.fitting import fit_and_predict
from smallm_train.features import FrozenEncoder
from smallm_train.tagger import Encoded, Tagger, encode, zero

PADDING, UNKNOWN = 0, 1
WINDOW = 512  # characters; an LSTM takes any length, but longer texts cost memory for nothing


@dataclass(frozen=True)
class BiLSTMOptions:
    """Sizes and training. `unknown_share`: characters seen once are hidden this often, so that UNKNOWN is trained."""

    embedding: int = 100
    hidden: int = 100
    dropout: float = 0.5
    unknown_share: float = 0.5
    max_epochs: int = 60
    patience: int = 12
    batch_size: int = 8
    learning_rate: float = 5e-3
    weight_decay: float = 5e-4


class BiLSTMCRF:
    """See the module. Neither the encoder nor the LLM is used."""

    trained = True
    uses_encoder = False
    needs_answers = False
    options = BiLSTMOptions

    def run(self, part: Part, encoder: FrozenEncoder | None, seed: int, options: BiLSTMOptions) -> Outcome:
        """See `System.run`."""
        torch.manual_seed(seed)
        counts: dict[str, int] = {}
        for document in part.train.documents:
            for character in document.text:
                counts[character.lower()] = counts.get(character.lower(), 0) + 1
        vocabulary = {character: index for index, character in enumerate(sorted(counts), start=UNKNOWN + 1)}
        rare = torch.tensor([False, False, *(counts[character] == 1 for character in vocabulary)])
        network = _Network(rare, part.labels.num_tags, options)
        tagger = Tagger(network, part.labels, WINDOW)
        parameters = [*network.parameters(), *tagger.crf.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=options.weight_decay)

        def encoded(split: Split) -> list[Encoded]:
            return [_encode(document, vocabulary, part.labels) for document in split.documents]

        return fit_and_predict(
            "bilstm_crf", tagger, (encoded(part.train), encoded(part.dev), encoded(part.test)), optimizer, options, seed
        )


def _encode(document: Document, vocabulary: dict[str, int], labels: LabelSet) -> Encoded:
    """One token a character; white space has none, as everywhere."""
    places = [index for index, character in enumerate(document.text) if not character.isspace()]
    ids = [vocabulary.get(document.text[index].lower(), UNKNOWN) for index in places]
    return encode(document, ids, [(index, index + 1) for index in places], labels)


class _Network(nn.Module):
    """Ids (b, n) and mask (b, n) to emissions (b, n, N)."""

    def __init__(self, rare: torch.Tensor, num_tags: int, options: BiLSTMOptions) -> None:
        super().__init__()
        self.register_buffer("rare", rare, persistent=False)
        self.unknown_share = options.unknown_share
        self.embedding = nn.Embedding(len(rare), options.embedding, padding_idx=PADDING)
        self.lstm = nn.LSTM(options.embedding, options.hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(options.dropout)
        self.last = zero(nn.Linear(2 * options.hidden, num_tags))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See the class."""
        if self.training:
            hidden = self.get_buffer("rare")[ids] & (torch.rand(ids.shape) < self.unknown_share)
            ids = torch.where(hidden, UNKNOWN, ids)
        packed = pack_padded_sequence(
            self.dropout(self.embedding(ids)), mask.sum(1), batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        emissions: torch.Tensor = self.last(self.dropout(states))
        return emissions
