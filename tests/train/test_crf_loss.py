from __future__ import annotations

from itertools import product

import torch

from smallm_train.crf import negative_log_likelihood


def test_against_enumeration_with_sequences_of_different_length() -> None:
    torch.manual_seed(0)
    emissions, start, transitions = torch.randn(2, 4, 3), torch.randn(3), torch.randn(3, 3)
    tags = torch.randint(3, (2, 4))
    lengths = (4, 2)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])

    def score(row: int, path: tuple[int, ...]) -> torch.Tensor:
        total = start[path[0]] + sum(emissions[row, i, tag] for i, tag in enumerate(path))
        return total + sum(transitions[a, b] for a, b in zip(path, path[1:], strict=False))

    expected = []
    for row, length in enumerate(lengths):
        everything = torch.stack([score(row, path) for path in product(range(3), repeat=length)])
        expected.append(torch.logsumexp(everything, 0) - score(row, tuple(tags[row, :length].tolist())))
    loss = negative_log_likelihood(emissions, tags, mask, start, transitions)
    torch.testing.assert_close(loss, torch.stack(expected).mean())
