"""Strict span-and-type precision, recall and F1, as seqeval computes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from smallm.documents import Span


def score(gold: Iterable[Iterable[Span]], guessed: Iterable[Iterable[Span]]) -> dict[str, Any]:
    """Micro `precision`, `recall`, `f1` (fractions) and the same `per_type`, over aligned documents."""
    pairs = [(set(g), set(p)) for g, p in zip(gold, guessed, strict=True)]
    types = sorted({span.type for g, p in pairs for span in g | p})
    total = _figures(pairs)
    per_type = {
        name: _figures([({s for s in g if s.type == name}, {s for s in p if s.type == name}) for g, p in pairs])
        for name in types
    }
    return {**total, "per_type": per_type}


def calibration_error(scored: Sequence[tuple[float, bool]], bins: int = 10) -> float:
    """Expected calibration error of (probability, whether it was right), in equal bins (Guo et al. 2017)."""
    grouped: dict[int, list[tuple[float, bool]]] = {}
    for probability, right in scored:
        grouped.setdefault(min(int(probability * bins), bins - 1), []).append((probability, right))
    gaps = (abs(sum(p for p, _ in group) - sum(right for _, right in group)) for group in grouped.values())
    return sum(gaps) / len(scored) if scored else 0.0


def _figures(pairs: list[tuple[set[Span], set[Span]]]) -> dict[str, float]:
    correct = sum(len(g & p) for g, p in pairs)
    gold, guessed = sum(len(g) for g, _ in pairs), sum(len(p) for _, p in pairs)
    precision = correct / guessed if guessed else 0.0
    recall = correct / gold if gold else 0.0
    f1 = 2 * correct / (gold + guessed) if gold + guessed else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}
