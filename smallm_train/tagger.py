"""A network from token ids to emissions under a CRF, trained with early stopping: what has no frozen encoder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from smallm.alignment import Offsets, spans_to_tags, tags_to_spans
from smallm.crf import FORBIDDEN
from smallm.documents import Document, Span
from smallm.fusion import Decoder
from smallm.labels import LabelSet
from smallm.scoring import score
from smallm.windows import cut, stitch
from smallm_train.crf import constraints, negative_log_likelihood


class Fitting(Protocol):
    """How long to train, and in which batches."""

    @property
    def max_epochs(self) -> int:
        """Passes over the training set at most."""

    @property
    def patience(self) -> int:
        """Stop after this many passes without a better dev F1."""

    @property
    def batch_size(self) -> int:
        """Windows a step."""


@dataclass(frozen=True)
class Encoded:
    """A text as a tagger sees it: ids (n,) and the code points of each, and gold tags (n,)."""

    document: Document
    ids: NDArray[np.int64]
    offsets: Offsets
    tags: NDArray[np.int64]


def encode(document: Document, ids: Sequence[int], offsets: Offsets, labels: LabelSet) -> Encoded:
    """A document with its token ids. Gold spans of a type outside `labels` count as O."""
    known = [span for span in document.spans if span.type in labels.types]
    tags = spans_to_tags(known, offsets, labels)
    return Encoded(document, np.array(ids, dtype=np.int64), offsets, np.array(tags, dtype=np.int64))


class CRF(nn.Module):
    """Transitions (N, N) from zero, with the moves closed that BIO forbids."""

    def __init__(self, labels: LabelSet) -> None:
        super().__init__()
        start, closed = constraints(labels)
        self.transitions = nn.Parameter(torch.zeros(labels.num_tags, labels.num_tags))
        self.register_buffer("closed", closed, persistent=False)
        self.register_buffer("start", start, persistent=False)

    def constrained(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(start (N,), transitions (N, N))."""
        return self.get_buffer("start"), self.transitions.masked_fill(self.get_buffer("closed"), FORBIDDEN)


class Tagger:
    """A network `ids (b, n), mask (b, n) -> emissions (b, n, N)` under a CRF, with its own optimiser."""

    def __init__(self, network: nn.Module, labels: LabelSet, window: int) -> None:
        self.network, self.labels, self.window = network, labels, window
        self.crf = CRF(labels)

    def fit(
        self,
        train: Sequence[Encoded],
        dev: Sequence[Encoded],
        optimizer: torch.optim.Optimizer,
        options: Fitting,
        seed: int,
    ) -> dict[str, Any]:
        """Train, and keep the weights of the best dev epoch; that epoch's figures.

        A text longer than the window is trained on in overlapping pieces.
        """
        pieces = [
            (text.ids[window.start : window.end], text.tags[window.start : window.end])
            for text in train
            for window in cut(len(text.ids), self.window)
        ]
        rng = np.random.default_rng(seed)
        modules = nn.ModuleList([self.network, self.crf])
        gold = [text.document.spans for text in dev]
        best, best_epoch, best_state = -1.0, 0, copy.deepcopy(modules.state_dict())
        for epoch in range(1, options.max_epochs + 1) if pieces else ():
            modules.train()
            order = rng.permutation(len(pieces))
            for first in range(0, len(order), options.batch_size):
                batch = [pieces[index] for index in order[first : first + options.batch_size]]
                ids, mask = _pad([ids for ids, _ in batch])
                tags, _ = _pad([tags for _, tags in batch])
                loss = negative_log_likelihood(self.network(ids, mask), tags, mask, *self.crf.constrained())
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(modules.parameters(), 5.0)
                optimizer.step()
            f1 = float(score(gold, self.predict(dev))["f1"])
            if f1 > best:
                best, best_epoch, best_state = f1, epoch, copy.deepcopy(modules.state_dict())
            if best > 0 and epoch - best_epoch >= options.patience:  # the zero start takes a while to leave
                break
        modules.load_state_dict(best_state)
        return {"epoch": best_epoch, "dev_f1": best}

    @torch.inference_mode()
    def predict(self, texts: Sequence[Encoded]) -> list[list[Span]]:
        """The best legal spans of each text."""
        self.network.eval()
        start, transitions = (tensor.detach().numpy() for tensor in self.crf.constrained())
        decode = Decoder(self.labels, start, transitions)
        found = []
        for text in texts:
            windows = cut(len(text.ids), self.window)
            emitted = [self.network(*_pad([text.ids[w.start : w.end]]))[0].numpy() for w in windows]
            tags = decode.tags(stitch(windows, emitted).astype(np.float32)) if windows else []
            found.append(tags_to_spans(tags, text.offsets, self.labels))
        return found

    def num_parameters(self) -> int:
        """Trainable parameters of network and CRF."""
        both = [*self.network.parameters(), *self.crf.parameters()]
        return sum(parameter.numel() for parameter in both if parameter.requires_grad)


def zero(layer: nn.Linear) -> nn.Linear:
    """The layer with zero weights and bias, so that an untrained tagger answers O."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _pad(rows: Sequence[NDArray[np.int64]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(values (b, n) padded with 0, mask (b, n))."""
    longest = max(len(row) for row in rows)
    values = np.zeros((len(rows), longest), dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.bool_)
    for index, row in enumerate(rows):
        values[index, : len(row)], mask[index, : len(row)] = row, True
    return torch.from_numpy(values), torch.from_numpy(mask)
