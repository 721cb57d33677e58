"""The training loss of a linear-chain CRF (Lafferty et al. 2001); inference is in smallm.crf.

Gradients come from marginals by a scaled forward-backward pass (Rabiner 1989) in float64, not from
autograd through a loop over positions: the same numbers some ten times faster on a CPU. Several CRFs
over the same sequences go through one pass.
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
    weights = torch.full((1, len(tags)), 1 / len(tags))
    return weighted_nll(emissions[None], tags, mask, start, transitions[None], weights)


def weighted_nll(
    emissions: torch.Tensor,
    tags: torch.Tensor,
    mask: torch.Tensor,
    start: torch.Tensor,
    transitions: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Sum of weights (c, b) times NLL of c CRFs: emissions (c, b, n, N), transitions (c, N, N); the rest as above."""
    loss: torch.Tensor = _WeightedNLL.apply(emissions, tags, mask, start, transitions, weights)  # type: ignore[no-untyped-call]
    return loss


class _WeightedNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: torch.Tensor) -> torch.Tensor:
        emissions, tags, mask, start, transitions, weights = (tensor.detach().numpy() for tensor in inputs)
        log_partition, unary, pairwise = _marginals(emissions, mask, start, transitions, weights)
        chosen = tags[None, :, :, None]
        following, before, after = mask[:, 1:], tags[:, :-1], tags[:, 1:]
        gold = (np.take_along_axis(emissions.astype(np.float64), chosen, 3)[..., 0] * mask).sum(2)
        gold += start[tags[:, 0]] + (transitions[:, before, after] * following).sum(2)
        real = (weights[:, :, None] * mask)[..., None]
        np.put_along_axis(unary, chosen, np.take_along_axis(unary, chosen, 3) - real, 3)
        for index, moved in enumerate(weights[:, :, None] * following):
            np.subtract.at(pairwise[index], (before, after), moved)
        ctx.save_for_backward(*(torch.from_numpy(part.astype(np.float32)) for part in (unary, pairwise)))
        return torch.tensor((weights * (log_partition - gold)).sum(), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        unary, pairwise = ctx.saved_tensors
        return gradients[0] * unary, None, None, None, gradients[0] * pairwise, None


def constraints(labels: LabelSet) -> tuple[torch.Tensor, torch.Tensor]:
    """(start (N,), closed (N, N) [from, to]): FORBIDDEN where BIO forbids a first tag; True where it forbids a move."""
    tags = range(labels.num_tags)
    start = torch.tensor([0.0 if labels.legal(None, tag) else FORBIDDEN for tag in tags])
    return start, torch.tensor([[not labels.legal(previous, tag) for tag in tags] for previous in tags])


def _marginals(
    emissions: NDArray[np.floating],
    mask: NDArray[np.bool_],
    start: NDArray[np.floating],
    transitions: NDArray[np.floating],
    weights: NDArray[np.floating],
) -> tuple[Array, Array, Array]:
    """(log partition (c, b), weighted unary marginals (c, b, n, N) and expected moves (c, N, N)); shapes as above."""
    scores = emissions.astype(np.float64)
    highest = scores.max(axis=3, keepdims=True)
    real = mask[:, :, None]
    potential = np.ascontiguousarray(np.where(real, np.exp(scores - highest), 1.0).transpose(2, 0, 1, 3))
    moves = np.exp(transitions.astype(np.float64))
    moved_back = np.ascontiguousarray(moves.transpose(0, 2, 1))
    forward, backward, weighted = np.empty_like(potential), np.ones_like(potential), np.empty_like(potential)
    scale = np.ones((*potential.shape[:3], 1))
    everywhere = np.asarray(mask.all(axis=0))  # where no text has ended yet, there is nothing to choose
    current = potential[0] * np.exp(start.astype(np.float64))
    for position in range(len(potential)):
        if position:
            moved = (current @ moves) * potential[position]
            current = moved if everywhere[position] else np.where(real[:, position], moved, current)
        scale[position] = current.sum(axis=2, keepdims=True)
        forward[position] = current = current / scale[position]
    potential /= scale
    for position in range(len(potential) - 1, 0, -1):
        here = np.multiply(potential[position], backward[position], out=weighted[position])
        if not everywhere[position]:
            here *= real[:, position]
        moved = here @ moved_back
        backward[position - 1] = (
            moved if everywhere[position] else np.where(real[:, position], moved, backward[position])
        )
    log_partition = np.log(scale[..., 0]).sum(axis=0) + (highest[..., 0] * mask).sum(axis=2)
    share = weights[None, :, :, None]
    unary = np.ascontiguousarray((forward * backward * share).transpose(1, 2, 0, 3)) * real
    pairs = zip(forward[:-1].transpose(1, 3, 0, 2), (weighted[1:] * share).transpose(1, 0, 2, 3), strict=True)
    count = len(start)
    pairwise = moves * np.stack([one.reshape(count, -1) @ two.reshape(-1, count) for one, two in pairs])
    return log_partition, unary, pairwise
