"""Training a head: AdamW on the CRF loss, early stopping on dev, the best weights kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from smallm.alignment import tags_to_spans
from smallm.errors import DataError
from smallm.fusion import Decoder
from smallm.labels import LabelSet
from smallm.scoring import score
from smallm_train.crf import negative_log_likelihood
from smallm_train.examples import Example, collate
from smallm_train.head import Head

STANDARD_TOKENS = 50_000  # enough for a mean and a scale; bounds the memory of wide encoders


@dataclass(frozen=True)
class Options:
    """How a head is trained. Epoch counts are passes over the training set.

    `min_epochs`: a zero start equals the LLM, and the fused score first falls below it for some ten
    epochs, so patience only counts after them. `absent_share`: documents a pass whose LLM answer is
    hidden, so that the head also serves without one. `averaging`: decay of the moving average of the
    weights, which is what is evaluated and kept (Polyak and Juditsky 1992).
    """

    max_epochs: int = 60
    min_epochs: int = 20
    patience: int = 12
    batch_size: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 5e-4
    absent_share: float = 0.3
    averaging: float = 0.98
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """One epoch: mean loss a document, dev F1 of the head with the LLM (`fused`, at `alpha`) and without (`local`)."""

    epoch: int
    loss: float
    fused: float
    local: float
    alpha: float

    @property
    def criterion(self) -> float:
        """What early stopping maximises: the head has to serve with the LLM and without it."""
        return (self.fused + self.local) / 2


def fit(
    head: Head,
    labels: LabelSet,
    train: Sequence[Example],
    dev: Sequence[Example],
    options: Options,
    report: Callable[[Progress], None],
) -> Progress:
    """Train `head` in place and leave the weights of the best dev epoch in it; that epoch's figures.

    Raises DataError if there is nothing to train on.
    """
    train = [example for example in train if len(example.tokens)]
    if not train:
        raise DataError("no training text holds a character")
    head.standardize(_sample(train))
    rng = np.random.default_rng(options.seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    average = torch.optim.swa_utils.AveragedModel(
        head, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(options.averaging)
    )
    best: Progress | None = None
    best_state = copy.deepcopy(head.state_dict())
    for epoch in range(1, options.max_epochs + 1):
        head.train()
        losses = [_step(head, batch, optimizer, average, options, rng) for batch in _batches(train, options, rng)]
        candidate = cast(Head, average.module)
        progress = Progress(epoch, sum(losses) / len(losses), *dev_f1(candidate, labels, dev))
        report(progress)
        if best is None or progress.criterion > best.criterion:
            best, best_state = progress, copy.deepcopy(candidate.state_dict())
        if epoch >= options.min_epochs and epoch - best.epoch >= options.patience:
            break
    assert best is not None
    head.load_state_dict(best_state)
    head.alpha = best.alpha
    head.eval()
    return best


def dev_f1(head: Head, labels: LabelSet, examples: Sequence[Example]) -> tuple[float, float, float]:
    """(fused, local, alpha): micro F1 on `examples` with the votes at the best of the head's alphas, and without.

    Of equal alphas the one furthest from the training weight, that is nearest to the LLM, is taken.
    """
    decode = decoder(head, labels)
    gold = [example.document.spans for example in examples]

    def f1(scores: Sequence[NDArray[np.float32]]) -> float:
        offsets = (example.tokens.offsets for example in examples)
        tags = (decode.tags(emitted) for emitted in scores)
        return float(score(gold, [tags_to_spans(t, o, labels) for t, o in zip(tags, offsets, strict=True)])["f1"])

    local = f1(emissions(head, examples, with_votes=False))
    if all(example.answer is None for example in examples):
        return local, local, head.alpha
    fused = emissions(head, examples, with_votes=True)
    by_alpha = {}
    for alpha in head.alphas:
        added = alpha - head.alpha
        by_alpha[alpha] = f1([scores + added * example.votes for scores, example in zip(fused, examples, strict=True)])
    best = max(by_alpha, key=lambda alpha: (by_alpha[alpha], alpha))
    return by_alpha[best], local, best


def emissions(
    head: Head, examples: Sequence[Example], *, with_votes: bool, batch_size: int = 16
) -> list[NDArray[np.float32]]:
    """Fused scores (n, N) of each example, without dropout."""
    head.eval()
    results = {index: example.votes for index, example in enumerate(examples)}  # of a text without tokens: (0, N)
    order = sorted((i for i in results if len(results[i])), key=lambda index: len(results[index]))
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        batch = collate([examples[index] for index in chosen], [with_votes] * len(chosen))
        with torch.inference_mode():
            scores = head(batch.features, batch.votes, batch.mask).numpy()
        for row, index in enumerate(chosen):
            results[index] = scores[row, : len(examples[index].tokens)]
    return [results[index] for index in range(len(examples))]


def decoder(head: Head, labels: LabelSet) -> Decoder:
    """The head's CRF for inference."""
    start, transitions = (tensor.detach().numpy() for tensor in head.constrained())
    return Decoder(labels, start, transitions)


def _sample(examples: Sequence[Example]) -> torch.Tensor:
    """Features of at most STANDARD_TOKENS tokens or so, spread evenly, (tokens, layers, hidden)."""
    stride = max(1, sum(len(example.tokens) for example in examples) // STANDARD_TOKENS)
    chosen = np.concatenate([example.features[::stride] for example in examples])
    return torch.from_numpy(chosen.astype(np.float32))


def _step(
    head: Head,
    examples: list[Example],
    optimizer: torch.optim.Optimizer,
    average: torch.optim.swa_utils.AveragedModel,
    options: Options,
    rng: np.random.Generator,
) -> float:
    keep = rng.random(len(examples)) >= options.absent_share
    batch = collate(examples, [bool(value) for value in keep])
    scores = head(batch.features, batch.votes, batch.mask)
    loss = negative_log_likelihood(scores, batch.tags, batch.mask, *head.constrained())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(head.parameters(), 5.0)
    optimizer.step()
    average.update_parameters(head)
    return float(loss.detach())


def _batches(examples: list[Example], options: Options, rng: np.random.Generator) -> list[list[Example]]:
    """Batches of similar length (less padding) in random order."""
    noisy = [len(example.tokens) * rng.uniform(0.8, 1.25) for example in examples]
    order = np.argsort(noisy)
    size = options.batch_size
    batches = [[examples[i] for i in order[first : first + size]] for first in range(0, len(order), size)]
    return [batches[i] for i in rng.permutation(len(batches))]
