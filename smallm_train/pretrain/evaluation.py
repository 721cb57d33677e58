"""Held-out scores of a pre-training run."""

from __future__ import annotations

import numpy as np
import torch

from smallm.labels import to_spans
from smallm.tokenization import TextTokenizer
from smallm_train.pretrain.batches import NO_LABEL, PADDING, Example, collate
from smallm_train.pretrain.corpus import BOUNDARIES
from smallm_train.pretrain.model import PretrainingModel, task_targets


@torch.inference_mode()
def evaluate(
    model: PretrainingModel, blocks: list[Example], silver: dict[str, list[Example]], tokenizer: TextTokenizer
) -> dict[str, float]:
    """Fractions: masked-token and part-of-speech accuracy, word-segmentation F1 (against jieba),
    and span F1 of each kind of silver data, type ignored. Masking is the same at every call."""
    model.eval()
    device = next(model.parameters()).device
    hits = {"mlm": 0, "part": 0}
    counted = {"mlm": 0, "part": 0}
    words = SpanCounts()
    rng = np.random.default_rng(0)
    for examples in _chunks(blocks, 16):
        batch = collate(examples, tokenizer, mask_share=0.15, rng=rng, multiple=PADDING).to(device)
        logits, targets = model(batch), task_targets(batch)
        for task in hits:
            known = targets[task] != NO_LABEL
            guesses = logits[task].reshape(-1, logits[task].shape[-1]).argmax(-1)
            hits[task] += int((guesses[known] == targets[task][known]).sum())
            counted[task] += int(known.sum())
        clean = collate(examples, tokenizer, mask_share=0.0, rng=rng, multiple=PADDING).to(device)
        guesses = model(clean)["boundary"].argmax(-1)
        for row in range(len(examples)):
            known = clean.boundaries[row] != NO_LABEL
            words.add(_words(guesses[row][known]), _words(clean.boundaries[row][known]))
    scores = {f"{task}_accuracy": hits[task] / max(counted[task], 1) for task in hits} | {"word_f1": words.f1()}
    for name, kind in silver.items():
        spans = SpanCounts()
        for examples in _chunks(kind, 64):
            batch = collate(examples, tokenizer, mask_share=0.0, rng=rng, multiple=PADDING).to(device)
            guesses = model(batch)["entity"].argmax(-1)
            for row in range(len(examples)):
                known = batch.entities[row] != NO_LABEL
                spans.add(_entities(guesses[row][known]), _entities(batch.entities[row][known]))
        scores[f"{name}_span_f1"] = spans.f1()
    return scores


class SpanCounts:
    """Running counts for F1 over sets of spans."""

    def __init__(self) -> None:
        self.correct = self.guessed = self.gold = 0

    def add(self, guessed: set[tuple[int, int]], gold: set[tuple[int, int]]) -> None:
        """Count one sequence."""
        self.correct += len(guessed & gold)
        self.guessed += len(guessed)
        self.gold += len(gold)

    def f1(self) -> float:
        """2c / (g + t); 0 when there is nothing."""
        return 2 * self.correct / max(self.guessed + self.gold, 1)


def _words(tags: torch.Tensor) -> set[tuple[int, int]]:
    names = [f"{BOUNDARIES[int(tag)]}-w" for tag in tags]
    return {(span.start, span.end) for span in to_spans(names)}


def _entities(tags: torch.Tensor) -> set[tuple[int, int]]:
    names = ["O" if not tag else ("B-e" if int(tag) % 2 else "I-e") for tag in tags]
    return {(span.start, span.end) for span in to_spans(names)}


def _chunks(examples: list[Example], size: int) -> list[list[Example]]:
    return [examples[index : index + size] for index in range(0, len(examples), size)]
