"""Linear-chain CRF inference in numpy: Viterbi and exact span posteriors (Lafferty et al. 2001).

Scores follow the paper: emissions plus N x N transitions, no start or end vectors. Transitions
that BIO forbids are closed in `constrained`, the one place that does so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smallm.labels import LabelSet

Array = NDArray[np.float32]
FORBIDDEN = -1e4


def constrained(transitions: Array, labels: LabelSet) -> tuple[Array, Array]:
    """(start, transitions) of shapes (N,) and (N, N) [from, to] with illegal BIO moves closed."""
    tags = range(labels.num_tags)
    legal = np.array([[labels.legal(previous, tag) for tag in tags] for previous in tags])
    start = np.array([0.0 if labels.legal(None, tag) else FORBIDDEN for tag in tags], dtype=np.float32)
    return start, np.where(legal, transitions, FORBIDDEN).astype(np.float32)


def viterbi(emissions: Array, start: Array, transitions: Array) -> list[int]:
    """The best tag sequence for emissions of shape (n, N); [] for n = 0. Ties take the lower tag."""
    return viterbi_batch([emissions], start, transitions)[0]


def viterbi_batch(sequences: Sequence[Array], start: Array, transitions: Array) -> list[list[int]]:
    """`viterbi` of each of `sequences` (n_i, N), all at once."""
    lengths = np.array([len(emissions) for emissions in sequences])
    if not lengths.any():
        return [[] for _ in sequences]
    order = np.argsort(-lengths, kind="stable")
    active = [int((lengths > position).sum()) for position in range(lengths.max())]
    padded = np.zeros((active[0], lengths.max(), len(start)), dtype=np.float32)
    for row, index in enumerate(order[: active[0]]):
        padded[row, : lengths[index]] = sequences[index]
    padded -= padded.max(axis=2, keepdims=True)  # costs, so that sums over a long text stay exact in float32
    score = start + padded[:, 0]
    back = np.zeros(padded.shape, dtype=np.int64)
    for position in range(1, padded.shape[1]):
        rows = active[position]  # longer texts come first, so those still running are a prefix
        candidates = score[:rows, :, None] + transitions
        back[:rows, position] = candidates.argmax(axis=1)
        score[:rows] = candidates.max(axis=1) + padded[:rows, position]
    tags: list[list[int]] = [[] for _ in sequences]
    for row, index in enumerate(order[: active[0]]):
        path = [int(score[row].argmax())]
        for position in range(lengths[index] - 1, 0, -1):
            path.append(int(back[row, position, path[-1]]))
        tags[index] = path[::-1]
    return tags


def run_posteriors(
    emissions: NDArray[np.floating],
    start: NDArray[np.floating],
    transitions: NDArray[np.floating],
    tags: list[int],
    runs: list[tuple[int, int]],
) -> list[float]:
    """Posterior probability of `tags` on each run of positions [start, end), by forward-backward.

    Exact for the run whatever surrounds it: the field confidence of Culotta and McCallum (2004).
    In float64: over a thousand tokens float32 loses the second decimal.
    """
    if not runs:
        return []
    emissions, start, transitions = (np.asarray(one, dtype=np.float64) for one in (emissions, start, transitions))
    forward, backward = np.empty_like(emissions), np.zeros_like(emissions)
    forward[0] = start + emissions[0]
    for position in range(1, len(emissions)):
        forward[position] = _logsumexp(forward[position - 1][:, None] + transitions, 0) + emissions[position]
    for position in range(len(emissions) - 2, -1, -1):
        following = emissions[position + 1] + backward[position + 1]
        backward[position] = _logsumexp(transitions + following[None, :], 1)
    total = float(_logsumexp(forward[-1], 0))
    scores = []
    for first, end in runs:
        score = forward[first, tags[first]] + backward[end - 1, tags[end - 1]]
        for position in range(first + 1, end):
            score += transitions[tags[position - 1], tags[position]] + emissions[position, tags[position]]
        scores.append(min(1.0, float(np.exp(score - total))))
    return scores


def _logsumexp(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    highest = values.max(axis=axis, keepdims=True)
    summed = np.log(np.exp(values - highest).sum(axis=axis, keepdims=True)) + highest
    return np.asarray(summed.squeeze(axis))
