"""Demonstrations nearest to a text, from annotated sentences: BM25 over character bigrams (Robertson et al. 1994)."""

from __future__ import annotations

import heapq
import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from smallm.documents import Document
from smallm.llm.prompt import Demonstration, Prompt

_K1, _B = 1.2, 0.75


class NearestDemonstrations:
    """Puts the `count` nearest of `documents` in the place of a prompt's demonstrations, the nearest last.

    The text itself is never among them: its labels would answer the question.
    """

    def __init__(self, documents: Sequence[Document], count: int) -> None:
        self._documents, self._count = documents, count
        counted = [_bigrams(document.text) for document in documents]
        lengths = [sum(one.values()) for one in counted]
        mean = sum(lengths) / max(1, len(lengths)) or 1.0
        self._weights: dict[str, list[tuple[int, float]]] = defaultdict(list)
        frequency = Counter(bigram for one in counted for bigram in one)
        for index, one in enumerate(counted):
            norm = _K1 * (1 - _B + _B * lengths[index] / mean)
            for bigram, times in one.items():
                rarity = math.log(1 + (len(documents) - frequency[bigram] + 0.5) / (frequency[bigram] + 0.5))
                self._weights[bigram].append((index, rarity * times * (_K1 + 1) / (times + norm)))

    def choose(self, prompt: Prompt, text: str) -> Prompt:
        """`prompt` with demonstrations for `text`; ties take the earlier sentence."""
        scores: dict[int, float] = defaultdict(float)
        for bigram in _bigrams(text):
            for index, weight in self._weights.get(bigram, ()):
                scores[index] += weight
        for index, document in enumerate(self._documents):
            if document.text == text:
                scores.pop(index, None)
        best = heapq.nsmallest(self._count, scores, key=lambda index: (-scores[index], index))
        return replace(prompt, demonstrations=tuple(_shown(self._documents[index]) for index in reversed(best)))


def _bigrams(text: str) -> Counter[str]:
    return Counter(first + second for first, second in pairwise(text))


def _shown(document: Document) -> Demonstration:
    answer = [{"W": document.text[span.start : span.end], "L": span.type} for span in document.spans]
    return Demonstration(document.text, json.dumps(answer, ensure_ascii=False))
