"""Training a head: AdamW on the CRF loss of every member over the folds that are not its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from smallm.errors import DataError
from smallm.fusion import UNTEMPERED, Decoder, Temperatures
from smallm.labels import LabelSet
from smallm_train.crf import weighted_nll
from smallm_train.examples import Batch, Example, collate
from smallm_train.head import Head
from smallm_train.material import Folds, Material

STANDARD_TOKENS = 50_000  # enough for a mean and a scale; bounds the memory of wide encoders
NO_FOLD = -1


@dataclass(frozen=True)
class Options:
    """How a head is trained: `epochs` passes over the training set, or `min_steps` steps if those are more.

    The rate is constant for the first half and then falls linearly. `averaging`: decay of the moving
    average of the weights, which is what is kept (Polyak and Juditsky 1992).
    """

    epochs: int = 24
    min_steps: int = 400
    batch_size: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 5e-4
    averaging: float = 0.98
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """One epoch of `epochs` and its mean loss a text and member."""

    epoch: int
    epochs: int
    loss: float


def fit(head: Head, material: Material, options: Options, report: Callable[[Progress], None] = lambda _: None) -> None:
    """Train `head` in place: first, if there are unlabelled texts, its local scores on what the LLM said there.

    Raises DataError if there is nothing to train on.
    """
    labelled = [(example, int(fold)) for example, fold in zip(material.labelled, material.folds, strict=True)]
    answered = [(_as_labelled(example), NO_FOLD) for example in material.unlabelled if example.answer is not None]
    if head.trains_local:
        labelled += zip(material.variants, material.variant_folds, strict=True)
    stages = [[(example, fold) for example, fold in texts if len(example.tokens)] for texts in (answered, labelled)]
    stages = [texts for texts in (stages if head.trains_local else stages[1:]) if texts]
    if not stages:
        raise DataError("no training text holds a character")
    rng = np.random.default_rng(options.seed)
    head.standardize(_sample([example for texts in stages for example, _ in texts]))
    for texts in stages:
        _train(head, texts, options, rng, report)


def _train(
    head: Head,
    texts: Sequence[tuple[Example, int]],
    options: Options,
    rng: np.random.Generator,
    report: Callable[[Progress], None],
) -> None:
    """One stage of training on texts with their folds; every member learns from a text of NO_FOLD."""
    fold_of = {id(example): fold for example, fold in texts}
    examples = [example for example, _ in texts]
    optimizer = torch.optim.AdamW(head.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    average = torch.optim.swa_utils.AveragedModel(
        head, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(options.averaging)
    )
    per_epoch = -(-len(examples) // options.batch_size)
    epochs = max(options.epochs, -(-options.min_steps // per_epoch))
    head.train()
    step = 0
    for epoch in range(1, epochs + 1):
        losses = []
        for batch in _batches(examples, options, rng):
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * min(1.0, 2 * (1 - step / (epochs * per_epoch)))
            loss = _loss(head, collate(batch), np.array([fold_of[id(example)] for example in batch]))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 5.0)
            optimizer.step()
            average.update_parameters(head)
            losses.append(float(loss.detach()))
            step += 1
        report(Progress(epoch, epochs, sum(losses) / len(losses)))
    head.load_state_dict(cast(Head, average.module).state_dict())
    head.eval()


def _as_labelled(example: Example) -> Example:
    """The LLM's answer as the text's tags, and no votes: a text that the local scores alone learn from."""
    return replace(example, tags=example.votes.argmax(axis=1), votes=np.zeros_like(example.votes), answer=None)


def _loss(head: Head, batch: Batch, folds: Folds) -> torch.Tensor:
    """Mean over members of the loss on texts of other folds: fused where the LLM has answered, and local."""
    scores = head.scores(batch.features, batch.votes, batch.mask)
    answered = batch.votes.amax((1, 2)) > 0
    fused = head.weigh(scores.fused[:, answered], torch.zeros(()), batch.votes[answered])
    members = torch.arange(head.members)[:, None]
    learns = members != torch.from_numpy(folds) if head.members > 1 else torch.ones(1, len(folds), dtype=torch.bool)
    local = learns if head.trains_local else learns & ~answered
    return weighted_nll(
        torch.cat([fused, scores.local], 1),
        torch.cat([batch.tags[answered], batch.tags]),
        torch.cat([batch.mask[answered], batch.mask]),
        *head.constrained_each(),
        torch.cat([learns[:, answered], local], 1) / (len(folds) * head.members),
    )


@torch.inference_mode()
def member_scores(
    head: Head, examples: Sequence[Example], batch_size: int = 16
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """(fused, local) scores of each example, (members, n, N) each, without votes added and without dropout."""
    head.eval()
    empty = np.zeros((head.members, 0, head.transitions.shape[1]), dtype=np.float32)
    results = [(empty, empty) for _ in examples]
    for chosen in _by_length(examples, batch_size):
        batch = collate([examples[index] for index in chosen])
        fused, local = (part.numpy() for part in head.scores(batch.features, batch.votes, batch.mask))
        for row, index in enumerate(chosen):
            length = len(examples[index].tokens)
            results[index] = (fused[:, row, :length], local[:, row, :length])
    return results


@torch.inference_mode()
def emissions(head: Head, examples: Sequence[Example], batch_size: int = 16) -> list[NDArray[np.float32]]:
    """What the head emits (n, N) for each example, without dropout; local emissions where there is no answer."""
    head.eval()
    results = [example.votes for example in examples]  # of a text without tokens: (0, N)
    for chosen in _by_length(examples, batch_size):
        batch = collate([examples[index] for index in chosen])
        emitted = head(batch.features, batch.votes, batch.mask).numpy()
        for row, index in enumerate(chosen):
            results[index] = emitted[row, : len(examples[index].tokens)]
    return results


def decoder(
    head: Head, labels: LabelSet, member: int | None = None, temperatures: Temperatures = UNTEMPERED
) -> Decoder:
    """The head's CRF for inference, or that of one member."""
    start, transitions = (tensor.detach().numpy() for tensor in head.constrained(member))
    return Decoder(labels, start, transitions, temperatures)


def _sample(examples: Sequence[Example]) -> torch.Tensor:
    """Features of at most STANDARD_TOKENS tokens or so, spread evenly, (tokens, layers, hidden)."""
    stride = max(1, sum(len(example.tokens) for example in examples) // STANDARD_TOKENS)
    chosen = np.concatenate([example.features[::stride] for example in examples])
    return torch.from_numpy(chosen.astype(np.float32))


def _by_length(examples: Sequence[Example], size: int) -> list[list[int]]:
    """Indices of the examples that have tokens, in batches of similar length."""
    order = sorted((i for i in range(len(examples)) if len(examples[i].tokens)), key=lambda i: len(examples[i].tokens))
    return [order[first : first + size] for first in range(0, len(order), size)]


def _batches(examples: list[Example], options: Options, rng: np.random.Generator) -> list[list[Example]]:
    """Batches of similar length (less padding) in random order."""
    noisy = [len(example.tokens) * rng.uniform(0.8, 1.25) for example in examples]
    order = np.argsort(noisy)
    size = options.batch_size
    batches = [[examples[i] for i in order[first : first + size]] for first in range(0, len(order), size)]
    return [batches[i] for i in rng.permutation(len(batches))]
