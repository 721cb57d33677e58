"""What is chosen after training, on honest scores: the weights of votes and local scores, the way, temperatures.

Honest are a member's scores of the training texts of its own fold, which it never learned from, and
the head's scores of dev texts. Together they are many more texts than dev alone, which is often small.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from smallm.alignment import tags_to_spans
from smallm.crf import viterbi_batch
from smallm.documents import Span
from smallm.fusion import Way
from smallm.labels import LabelSet
from smallm.model_folder import Weights
from smallm.scoring import score
from smallm_train import bootstrap
from smallm_train.crf import negative_log_likelihood
from smallm_train.examples import Example
from smallm_train.head import Head
from smallm_train.loop import decoder, member_scores
from smallm_train.refinement import refine

Scores = NDArray[np.float32]
TEMPERATURES = tuple(float(value) for value in np.geomspace(0.5, 16, 21))
RESAMPLES = 500
ENOUGH = 1.0  # standard errors by which fused must be better (as one-standard-error rules: Breiman et al. 1984)


@dataclass(frozen=True)
class Choice:
    """What was chosen, and on what: micro F1 by way over the honest texts that have an LLM answer.

    `gain` is by how much fused is better than the better of the other two, `gain_error` the standard error of that.
    `local_all` is the local F1 over all honest texts, `texts` their number; temperatures divide
    emissions and transitions before probabilities are taken.
    """

    way: Way
    f1: dict[str, float]
    gain: float
    gain_error: float
    local_all: float
    texts: int
    local_temperature: float
    fused_temperature: float


@dataclass(frozen=True)
class _Honest:
    """One text, its scores (n, N) and whose CRF decodes it (None: the averaged one)."""

    example: Example
    fused: Scores
    local: Scores
    member: int | None


def choose(head: Head, labels: LabelSet, train: Sequence[tuple[Example, int]], dev: Sequence[Example]) -> Choice:
    """Choose on honest scores and set `head.weights`.

    `train` are texts with their folds (`Material.known`). A head with one member has no honest scores of them, so dev
    alone decides.
    """
    texts = [_Honest(e, fused.mean(0), local.mean(0), None) for e, (fused, local) in _scored(head, dev)]
    if head.members > 1:
        for (example, (fused, local)), (_, fold) in zip(_scored(head, [e for e, _ in train]), train, strict=True):
            texts.append(_Honest(example, fused[fold], local[fold], fold))
    answered = [text for text in texts if text.example.answer is not None]
    local_all = _f1(texts, _spans(head, labels, texts, [text.local for text in texts]))
    local_scores = [text.local for text in answered]
    temperature = _temperature(head, texts, [text.local for text in texts])
    if not answered:
        alone = {str(Way.LOCAL): local_all}
        return Choice(Way.LOCAL if texts else Way.LLM, alone, 0.0, 0.0, local_all, len(texts), temperature, temperature)
    head.weights = _weights(head, labels, answered)
    fused_scores = _fused(head.weights, answered)
    found = {
        Way.FUSED: _spans(head, labels, answered, fused_scores),
        Way.LLM: [list(text.example.answer or ()) for text in answered],
        Way.LOCAL: _spans(head, labels, answered, local_scores),
    }
    way, gain, error = best_way([text.example.document.spans for text in answered], found)
    f1 = {str(name): _f1(answered, spans) for name, spans in found.items()}
    fused_temperature = _temperature(head, answered, fused_scores)
    return Choice(way, f1, gain, error, local_all, len(texts), temperature, fused_temperature)


def _weights(head: Head, labels: LabelSet, texts: Sequence[_Honest]) -> Weights:
    """The best of the head's grid, refined; of equals the nearest to the LLM."""
    gold = [text.example.document.spans for text in texts]

    @functools.cache  # refining comes back to the weights that it stands at
    def counted(weights: Weights) -> bootstrap.Counts:
        return bootstrap.count(gold, [_spans(head, labels, texts, _fused(weights, texts))])

    f1 = {weights: float(bootstrap.mean_f1(counted(weights))[0]) for weights in head.grid}
    best = max(f1, key=lambda weights: (f1[weights], weights.alpha, -weights.gamma))
    return refine(best, len(labels.types), counted) if len(head.grid) > 1 else best


def best_way(gold: Sequence[Sequence[Span]], found: Mapping[Way, Sequence[Sequence[Span]]]) -> tuple[Way, float, float]:
    """The way to answer, fused's gain over the better of LLM and local, and that gain's standard error.

    Fused must be better by ENOUGH, for its weights were chosen on these very texts: a smaller gain among few
    texts is as likely a loss on others. Equal to the LLM, as before training, it is fused: it costs nothing.
    """
    counts = {way: bootstrap.count(gold, [spans]) for way, spans in found.items()}
    f1 = {way: float(bootstrap.mean_f1(count)[0]) for way, count in counts.items()}
    single = max((Way.LLM, Way.LOCAL), key=lambda way: f1[way])
    drawn = bootstrap.resample(len(gold), RESAMPLES)
    error = float(np.std(bootstrap.mean_f1(counts[Way.FUSED], drawn) - bootstrap.mean_f1(counts[single], drawn)))
    gain = f1[Way.FUSED] - f1[single]
    return (Way.FUSED if gain >= ENOUGH * error else single), gain, error


def _scored(head: Head, examples: Sequence[Example]) -> list[tuple[Example, tuple[Scores, Scores]]]:
    return list(zip(examples, member_scores(head, examples), strict=True))


def _fused(weights: Weights, texts: Sequence[_Honest]) -> list[Scores]:
    alpha, added = weights.by_tag(texts[0].fused.shape[1])
    return [alpha * text.example.votes + text.fused + weights.gamma * text.local + added for text in texts]


def _spans(head: Head, labels: LabelSet, texts: Sequence[_Honest], scores: Sequence[Scores]) -> list[list[Span]]:
    spans: list[list[Span]] = [[] for _ in texts]
    for member, indices in _groups(texts).items():
        crf = decoder(head, labels, member)
        tags = viterbi_batch([scores[index] for index in indices], crf.start, crf.transitions)
        for index, path in zip(indices, tags, strict=True):
            spans[index] = tags_to_spans(path, texts[index].example.tokens.offsets, labels)
    return spans


def _f1(texts: Sequence[_Honest], spans: Sequence[Sequence[Span]]) -> float:
    return float(score([text.example.document.spans for text in texts], spans)["f1"])


def _groups(texts: Sequence[_Honest]) -> dict[int | None, list[int]]:
    groups: dict[int | None, list[int]] = {}
    for index, text in enumerate(texts):
        groups.setdefault(text.member, []).append(index)
    return groups


@torch.inference_mode()
def _temperature(head: Head, texts: Sequence[_Honest], scores: Sequence[Scores]) -> float:
    """The temperature under which the gold tags are likeliest (Guo et al. 2017, on the CRF's sequences)."""
    total = dict.fromkeys(TEMPERATURES, 0.0)
    for member, indices in _groups(texts).items():
        start, transitions = head.constrained(member)
        for first in range(0, len(indices), 64):
            chosen = [index for index in indices[first : first + 64] if len(scores[index])]
            if not chosen:
                continue
            lengths = torch.tensor([len(scores[index]) for index in chosen])
            mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
            padded = [
                torch.nn.utils.rnn.pad_sequence([torch.from_numpy(part) for part in parts], batch_first=True)
                for parts in ([scores[i] for i in chosen], [texts[i].example.tags for i in chosen])
            ]
            for temperature in TEMPERATURES:
                loss = negative_log_likelihood(
                    padded[0] / temperature, padded[1], mask, start, transitions / temperature
                )
                total[temperature] += float(loss) * len(chosen)
    return min(total, key=lambda temperature: total[temperature])
