"""The trained part: encoder features and LLM votes to fused emissions, and the CRF's transitions.

Both heads equal the LLM at step 0, because their last layer and transitions start at zero.
"""

from __future__ import annotations

import torch
from torch import nn

from smallm.crf import FORBIDDEN
from smallm.errors import ArtifactError
from smallm.labels import LabelSet


class Head(nn.Module):
    """Common part: alpha * votes + the local emissions of a subclass, and constrained transitions.

    `alphas` are the weights of the LLM's vote to choose from on dev, the first one for training. A
    head trusts what it has memorised of its training set too much, so more than the first may pay.
    """

    alphas: tuple[float, ...] = (1.0,)

    def __init__(self, labels: LabelSet) -> None:
        super().__init__()
        count = labels.num_tags
        self.alpha = self.alphas[0]
        self.transitions = nn.Parameter(torch.zeros(count, count))
        legal = torch.tensor([[labels.legal(a, b) for b in range(count)] for a in range(count)])
        first = torch.tensor([labels.legal(None, tag) for tag in range(count)])
        self.register_buffer("closed", ~legal, persistent=False)
        self.register_buffer("start", torch.where(first, 0.0, FORBIDDEN), persistent=False)

    def local(self, features: torch.Tensor, votes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """beta * O_bert of shape (b, n, N)."""
        raise NotImplementedError

    def forward(self, features: torch.Tensor, votes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Emissions (b, n, N) of features (b, n, layers, hidden), votes (b, n, N), mask (b, n)."""
        return self.alpha * votes + self.local(features, votes, mask)

    def standardize(self, features: torch.Tensor) -> None:
        """Fit what the head knows of its input's scale on training features (tokens, layers, hidden)."""

    def constrained(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(start, transitions) with the moves closed that BIO forbids."""
        start, closed = self.get_buffer("start"), self.get_buffer("closed")
        return start, self.transitions.masked_fill(closed, FORBIDDEN)

    def num_parameters(self) -> int:
        """Trainable parameters, counted as the paper counts them."""
        return sum(parameter.numel() for parameter in self.parameters())


class PaperHead(Head):
    """W2 tanh(W1 E + b1) + b2 over the last layer, alpha = 1 (Yang et al. 2025)."""

    def __init__(self, labels: LabelSet, layers: int, hidden: int, width: int) -> None:
        super().__init__(labels)
        self.first = nn.Linear(hidden, width)
        self.last = _zero(nn.Linear(width, labels.num_tags))

    def local(self, features: torch.Tensor, votes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See Head.local."""
        emissions: torch.Tensor = self.last(torch.tanh(self.first(features[:, :, -1])))
        return emissions


class FusionHead(Head):
    """A learned mix of standardised layers, joined with the votes, then two residual convolutions.

    The votes enter three times: as they are, added at the end; as features beside the encoder's, so
    that a boundary that is right under a wrong type can be learned; and through `trust`, a confusion
    matrix. Dropout stands only before linear maps: before a non-linearity it shifts the mean of what
    follows, and the head then scores far lower in use than in training.
    """

    alphas = (4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0)

    def __init__(self, labels: LabelSet, layers: int, hidden: int, width: int) -> None:
        super().__init__(labels)
        self.register_buffer("mean", torch.zeros(layers, hidden))
        self.register_buffer("scale", torch.ones(layers, hidden))
        self.mix = nn.Parameter(torch.zeros(layers))
        self.first = nn.Linear(hidden + labels.num_tags, width)
        self.near = nn.Conv1d(width, width, 5, padding=2)
        self.wide = nn.Conv1d(width, width, 5, padding=2)
        self.last = _zero(nn.Linear(width, labels.num_tags))
        self.trust = _zero(nn.Linear(labels.num_tags, labels.num_tags))
        self.drop_features, self.drop_hidden = nn.Dropout(0.1), nn.Dropout(0.4)

    def standardize(self, features: torch.Tensor) -> None:
        """Fix each feature's mean and scale from training features (tokens, layers, hidden)."""
        self.get_buffer("mean").copy_(features.mean(0))
        self.get_buffer("scale").copy_(1 / (features.std(0) + 1e-3))

    def local(self, features: torch.Tensor, votes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See Head.local."""
        standard = (features - self.get_buffer("mean")) * self.get_buffer("scale")
        mixed = torch.einsum("bnlh,l->bnh", standard, torch.softmax(self.mix, 0))
        hidden = torch.tanh(self.first(torch.cat([self.drop_features(mixed), votes], dim=-1)))
        for convolution in (self.near, self.wide):
            inside = (hidden * mask[:, :, None]).transpose(1, 2)
            hidden = hidden + torch.tanh(convolution(inside)).transpose(1, 2)
        emissions: torch.Tensor = self.last(self.drop_hidden(hidden)) + self.trust(votes)
        return emissions


HEADS: dict[str, type[PaperHead] | type[FusionHead]] = {"fusion": FusionHead, "paper": PaperHead}
WIDTHS = {"fusion": 160, "paper": 128}


def build_head(kind: str, labels: LabelSet, layers: int, hidden: int, width: int = 0) -> Head:
    """A head at step 0; `width` 0 takes the kind's default. Raises ArtifactError for an unknown kind."""
    if kind not in HEADS:
        raise ArtifactError(f"unknown head '{kind}'; known: {', '.join(HEADS)}")
    return HEADS[kind](labels, layers, hidden, width or WIDTHS[kind])


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
