from __future__ import annotations

from itertools import product

import torch

from smallm_train.crf import negative_log_likelihood, weighted_nll


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


def test_several_crfs_in_one_pass_are_each_alone_weighed() -> None:
    torch.manual_seed(1)
    emissions, transitions = torch.randn(3, 4, 6, 5, requires_grad=True), torch.randn(3, 5, 5, requires_grad=True)
    tags, mask = torch.randint(5, (4, 6)), torch.arange(6)[None] < torch.tensor([6, 1, 4, 6])[:, None]
    start, weights = torch.randn(5), torch.rand(3, 4) * torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    inputs = (emissions, transitions)
    loss = weighted_nll(emissions, tags, mask, start, transitions, weights)
    found = torch.autograd.grad(loss, inputs)
    alone = torch.stack(
        [
            torch.stack(
                [
                    negative_log_likelihood(emissions[c, b, None], tags[b, None], mask[b, None], start, transitions[c])
                    for b in range(4)
                ]
            )
            for c in range(3)
        ]
    )
    torch.testing.assert_close(loss, (alone * weights).sum())
    for one, other in zip(found, torch.autograd.grad((alone * weights).sum(), inputs), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
