"""The trained part: encoder features and LLM votes to fused emissions, and the CRF's transitions.

Both heads equal the LLM at step 0, because their last layer and transitions start at zero.
"""

from __future__ import annotations

import torch
from torch import nn

from smallm.crf import FORBIDDEN
from smallm.labels import LabelSet


class Head(nn.Module):
    """Common part: alpha * votes + the local emissions of a subclass, and constrained transitions."""

    kind: str

    def __init__(self, labels: LabelSet, alpha: float = 1.0) -> None:
        super().__init__()
        count = labels.num_tags
        self.alpha = alpha
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

    def constrained(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(start, transitions) with the moves closed that BIO forbids."""
        start, closed = self.get_buffer("start"), self.get_buffer("closed")
        return start, self.transitions.masked_fill(closed, FORBIDDEN)

    def num_parameters(self) -> int:
        """Trainable parameters, counted as the paper counts them."""
        return sum(parameter.numel() for parameter in self.parameters())


class PaperHead(Head):
    """W2 tanh(W1 E + b1) + b2 over the last layer (Yang et al. 2025)."""

    kind = "paper"

    def __init__(self, labels: LabelSet, layers: int, hidden: int, width: int = 128) -> None:
        super().__init__(labels)
        self.first = nn.Linear(hidden, width)
        self.last = _zero(nn.Linear(width, labels.num_tags))

    def local(self, features: torch.Tensor, votes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See Head.local."""
        return self.last(torch.tanh(self.first(features[:, :, -1])))


class FusionHead(Head):
    """A learned mix of layers, joined with the votes, then two residual convolutions over tokens.

    The votes enter twice: as they are, added at the end, and as features, so that a boundary that
    is right under a wrong type, or an error the LLM makes often, can be learned.
    """

    kind = "fusion"

    def __init__(self, labels: LabelSet, layers: int, hidden: int, width: int = 160) -> None:
        super().__init__(labels)
        self.mix = nn.Parameter(torch.zeros(layers))
        self.first = nn.Linear(hidden + labels.num_tags, width)
        self.near = nn.Conv1d(width, width, 5, padding=2)
        self.wide = nn.Conv1d(width, width, 5, padding=2)
        self.last = _zero(nn.Linear(width, labels.num_tags))
        self.dropout = nn.Dropout(0.3)

    def local(self, features: torch.Tensor, votes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See Head.local."""
        mixed = torch.einsum("bnlh,l->bnh", features, torch.softmax(self.mix, 0))
        hidden = torch.tanh(self.first(torch.cat([self.dropout(mixed), votes], dim=-1)))
        for convolution in (self.near, self.wide):
            inside = (self.dropout(hidden) * mask[:, :, None]).transpose(1, 2)
            hidden = hidden + torch.relu(convolution(inside)).transpose(1, 2)
        return self.last(torch.tanh(self.dropout(hidden)))


HEADS: dict[str, type[PaperHead] | type[FusionHead]] = {"fusion": FusionHead, "paper": PaperHead}


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
