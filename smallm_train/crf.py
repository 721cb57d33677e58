"""The training loss of a linear-chain CRF (Lafferty et al. 2001); inference is in smallm.crf.

Gradients come from marginals by a scaled forward-backward pass (Rabiner 1989) in float64, not from
autograd through a loop over positions: the same numbers some ten times faster on a CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smallm.crf import FORBIDDEN
from smallm.labels import LabelSet

Array = NDArray[np.float64]


def negative_log_likelihood(
    emissions: torch.Tensor,
    tags: torch.Tensor,
    mask: torch.Tensor,
    start: torch.Tensor,
    transitions: torch.Tensor,
) -> torch.Tensor:
    """Mean NLL a sequence. emissions (b, n, N); tags (b, n); mask (b, n) bool, True first; (N,); (N, N) [from, to]."""
    loss: torch.Tensor = _NegativeLogLikelihood.apply(emissions, tags, mask, start, transitions)  # type: ignore[no-untyped-call]
    return loss


class _NegativeLogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: torch.Tensor) -> torch.Tensor:
        emissions, tags, mask, start, transitions = (tensor.detach().numpy() for tensor in inputs)
        log_partition, unary, pairwise = marginals(emissions, mask, start, transitions)
        scores = emissions.astype(np.float64)
        rows = np.arange(len(tags))[:, None]
        positions = np.arange(tags.shape[1])[None]
        following = mask[:, 1:]
        before, after = tags[:, :-1][following], tags[:, 1:][following]
        gold = (scores[rows, positions, tags] * mask).sum() + start[tags[:, 0]].sum() + transitions[before, after].sum()
        unary[rows, positions, tags] -= mask
        np.subtract.at(pairwise, (before, after), 1.0)
        size = len(tags)
        ctx.save_for_backward(*(torch.from_numpy((part / size).astype(np.float32)) for part in (unary, pairwise)))
        return torch.tensor((log_partition.sum() - gold) / size, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        unary, pairwise = ctx.saved_tensors
        return gradients[0] * unary, None, None, None, gradients[0] * pairwise


def constraints(labels: LabelSet) -> tuple[torch.Tensor, torch.Tensor]:
    """(start (N,), closed (N, N) [from, to]): FORBIDDEN where BIO forbids a first tag; True where it forbids a move."""
    tags = range(labels.num_tags)
    start = torch.tensor([0.0 if labels.legal(None, tag) else FORBIDDEN for tag in tags])
    return start, torch.tensor([[not labels.legal(previous, tag) for tag in tags] for previous in tags])


def marginals(
    emissions: NDArray[np.floating],
    mask: NDArray[np.bool_],
    start: NDArray[np.floating],
    transitions: NDArray[np.floating],
) -> tuple[Array, Array, Array]:
    """(log partition (b,), unary marginals (b, n, N), expected transition counts (N, N)); shapes as above."""
    scores = emissions.astype(np.float64)
    highest = scores.max(axis=2, keepdims=True)
    potential = np.exp(scores - highest) * mask[:, :, None] + ~mask[:, :, None]
    moves = np.exp(transitions.astype(np.float64))
    batch, length, count = scores.shape
    forward, backward = np.empty((length, batch, count)), np.ones((length, batch, count))
    scale = np.ones((length, batch, 1))
    current = potential[:, 0] * np.exp(start.astype(np.float64))
    for position in range(length):
        if position:
            here = mask[:, position, None]
            current = np.where(here, (current @ moves) * potential[:, position], current)
        scale[position] = current.sum(axis=1, keepdims=True)
        forward[position] = current = current / scale[position]
    weighted = np.empty((length, batch, count))
    for position in range(length - 1, 0, -1):
        here = mask[:, position, None]
        weighted[position] = np.where(here, potential[:, position] * backward[position] / scale[position], 0.0)
        backward[position - 1] = np.where(here, weighted[position] @ moves.T, backward[position])
    log_partition = np.log(scale[:, :, 0]).sum(axis=0) + (highest[:, :, 0] * mask).sum(axis=1)
    unary = (forward * backward).transpose(1, 0, 2) * mask[:, :, None]
    pairwise = moves * np.einsum("tbi,tbj->ij", forward[:-1], weighted[1:], optimize=True)
    return log_partition, unary, pairwise
