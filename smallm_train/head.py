"""The trained part: encoder features and LLM votes to fused emissions, and the CRF's transitions.

A head has members, networks trained side by side, each on all folds of the training set but its own:
what a member says about its own fold is as honest as on unseen text, and choices are made on it
(cross-fitting, Chernozhukov et al. 2018). In use the members are averaged. Every head equals the LLM
at step 0, because its last layer and its transitions start at zero.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from smallm.crf import FORBIDDEN
from smallm.errors import ArtifactError
from smallm.labels import LabelSet
from smallm.model_folder import Weights
from smallm_train.crf import constraints
from smallm_train.dropout import Dropout

LIMIT = 500_000  # trainable parameters of a head of default width


class Scores(NamedTuple):
    """What the members' networks add, (members, b, n, N) each: beside the votes, and without any."""

    fused: torch.Tensor
    local: torch.Tensor


class Head(nn.Module):
    """Common part: how scores and votes are weighed, and the constrained transitions.

    `grid` are the weights to choose from and to refine, the first for training; a single one stays. A head
    trusts what it has memorised of its training set too much, so a larger alpha than in training may pay.
    `trains_local` says whether texts with an LLM answer train the local scores too.
    """

    grid: tuple[Weights, ...] = (Weights(),)
    trains_local = False

    def __init__(self, labels: LabelSet, members: int) -> None:
        super().__init__()
        count = labels.num_tags
        self.members, self.weights = members, self.grid[0]
        self.transitions = nn.Parameter(torch.zeros(members, count, count))
        start, closed = constraints(labels)
        self.register_buffer("closed", closed, persistent=False)
        self.register_buffer("start", start, persistent=False)

    def scores(self, features: torch.Tensor, votes: torch.Tensor, mask: torch.Tensor) -> Scores:
        """Scores of every member for features (b, n, layers, hidden), votes (b, n, N), mask (b, n)."""
        raise NotImplementedError

    def forward(self, features: torch.Tensor, votes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Emissions (b, n, N), averaged over the members; local ones for a text whose votes are all zero."""
        fused, local = (score.mean(0) for score in self.scores(features, votes, mask))
        return torch.where(votes.amax((1, 2), keepdim=True) > 0, self.weigh(fused, local, votes), local)

    def weigh(self, fused: torch.Tensor, local: torch.Tensor, votes: torch.Tensor) -> torch.Tensor:
        """alpha * votes + fused + gamma * local, and caution on O."""
        alpha, added = (torch.from_numpy(part).to(votes) for part in self.weights.by_tag(votes.shape[-1]))
        return alpha * votes + fused + self.weights.gamma * local + added

    def standardize(self, features: torch.Tensor) -> None:
        """Fit what the head knows of its input's scale on training features (tokens, layers, hidden)."""

    def constrained_each(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(start (N,), transitions (members, N, N)) with the moves closed that BIO forbids."""
        return self.get_buffer("start"), self.transitions.masked_fill(self.get_buffer("closed"), FORBIDDEN)

    def constrained(self, member: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(start (N,), transitions (N, N)) of a member, or of all averaged, as `constrained_each`."""
        start, transitions = self.constrained_each()
        return start, transitions.mean(0) if member is None else transitions[member]

    def num_parameters(self) -> int:
        """Trainable parameters, counted as the paper counts them."""
        return sum(parameter.numel() for parameter in self.parameters())


class PaperHead(Head):
    """W2 tanh(W1 E + b1) + b2 over the last layer, alpha = 1, one member (Yang et al. 2025)."""

    def __init__(self, labels: LabelSet, layers: int, hidden: int, width: int) -> None:
        super().__init__(labels, members=1)
        self.first = nn.Linear(hidden, width)
        self.last = nn.Linear(width, labels.num_tags)
        _zero(self.last)

    def scores(self, features: torch.Tensor, votes: torch.Tensor, mask: torch.Tensor) -> Scores:
        """See Head.scores."""
        local = self.last(torch.tanh(self.first(features[:, :, -1])))[None]
        return Scores(local, local)


class FusionHead(Head):
    """Two branches of four members each over a learned mix of standardised layers.

    The local branch never sees a vote. The fusion branch reads the votes beside the encoder's features,
    so that a boundary that is right under a wrong type can be learned, and adds the LLM's confusion
    matrix `trust`. A member is one linear map and two residual convolutions over tokens. Dropout stands
    only before linear maps: before a non-linearity it shifts the mean of what follows, and the head
    then scores far lower in use than in training.
    """

    grid = tuple(
        Weights((alpha,), gamma)
        for alpha in (4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 13.0)
        for gamma in (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
    )
    trains_local = True
    MEMBERS = 4

    def __init__(self, labels: LabelSet, layers: int, hidden: int, width: int) -> None:
        super().__init__(labels, self.MEMBERS)
        count, groups = labels.num_tags, 2 * self.members  # first the local branch's, then the fusion branch's
        self.register_buffer("mean", torch.zeros(layers, hidden))
        self.register_buffer("scale", torch.ones(layers, hidden))
        self.mix = nn.Parameter(torch.zeros(layers))
        self.first = nn.Linear(hidden, groups * width)
        self.read = nn.Linear(count, self.members * width, bias=False)
        self.near = nn.Conv1d(groups * width, groups * width, 5, padding=2, groups=groups)
        self.wide = nn.Conv1d(groups * width, groups * width, 5, padding=2, groups=groups)
        self.last = nn.Conv1d(groups * width, groups * count, 1, groups=groups)
        self.trust = nn.Linear(count, self.members * count, bias=False)
        _zero(self.last)
        _zero(self.trust)
        self.drop_features, self.drop_hidden = Dropout(0.15), Dropout(0.4)

    def standardize(self, features: torch.Tensor) -> None:
        """Fix each feature's mean and scale from training features (tokens, layers, hidden)."""
        self.get_buffer("mean").copy_(features.mean(0))
        self.get_buffer("scale").copy_(1 / (features.std(0) + 1e-3))

    def scores(self, features: torch.Tensor, votes: torch.Tensor, mask: torch.Tensor) -> Scores:
        """See Head.scores."""
        standard = (features - self.get_buffer("mean")) * self.get_buffer("scale")
        mixed = torch.einsum("bnlh,l->bnh", standard, torch.softmax(self.mix, 0))
        read = self.read(votes)
        read = torch.cat([torch.zeros_like(read), read], dim=-1)
        hidden = torch.tanh(self.first(self.drop_features(mixed)) + read).transpose(1, 2)
        for convolution in (self.near, self.wide):
            hidden = hidden + torch.tanh(convolution(hidden * mask[:, None, :]))
        batch, length = mask.shape
        scored = self.last(self.drop_hidden(hidden)).view(batch, 2, self.members, -1, length).permute(1, 2, 0, 4, 3)
        trust = self.trust(votes).view(batch, length, self.members, -1).permute(2, 0, 1, 3)
        return Scores(scored[1] + trust, scored[0])


HEADS: dict[str, type[PaperHead] | type[FusionHead]] = {"fusion": FusionHead, "paper": PaperHead}


def default_width(kind: str, labels: LabelSet, layers: int, hidden: int) -> int:
    """The paper's 128, or the widest multiple of 8 up to 64 that keeps the head within LIMIT parameters."""
    if kind == "paper":
        return 128
    return next(
        (w for w in range(64, 8, -8) if build_head(kind, labels, layers, hidden, w).num_parameters() <= LIMIT), 8
    )


def build_head(kind: str, labels: LabelSet, layers: int, hidden: int, width: int = 0) -> Head:
    """A head at step 0; `width` 0 takes the default. Raises ArtifactError for an unknown kind."""
    if kind not in HEADS:
        raise ArtifactError(f"unknown head '{kind}'; known: {', '.join(HEADS)}")
    return HEADS[kind](labels, layers, hidden, width or default_width(kind, labels, layers, hidden))


@torch.no_grad()
def _zero(layer: nn.Linear | nn.Conv1d) -> None:
    for parameter in layer.parameters():
        parameter.zero_()
