"""The training loss of a linear-chain CRF (Lafferty et al. 2001); inference is in smallm.crf."""

from __future__ import annotations

import torch


def negative_log_likelihood(
    emissions: torch.Tensor,
    tags: torch.Tensor,
    mask: torch.Tensor,
    start: torch.Tensor,
    transitions: torch.Tensor,
) -> torch.Tensor:
    """Mean NLL a sequence. emissions (b, n, N); tags (b, n); mask (b, n) bool, True first; (N,); (N, N) [from, to]."""
    gold = start[tags[:, 0]] + emissions[:, 0].gather(1, tags[:, :1]).squeeze(1)
    score = start + emissions[:, 0]
    for position in range(1, emissions.shape[1]):
        here = mask[:, position]
        emission = emissions[:, position]
        step = transitions[tags[:, position - 1], tags[:, position]]
        step = step + emission.gather(1, tags[:, position : position + 1]).squeeze(1)
        gold = gold + torch.where(here, step, 0.0)
        following = torch.logsumexp(score[:, :, None] + transitions, dim=1) + emission
        score = torch.where(here[:, None], following, score)
    return (torch.logsumexp(score, dim=1) - gold).mean()
