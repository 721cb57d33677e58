"""A bundle in-process, for `smallm evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smallm.documents import Span
from smallm.fusion import Entity, Way
from smallm_runtime.engine import Engine, Item
from smallm_runtime.heads import Recognized

CHUNK = 64


class BundleRecognizer:
    """See `smallm.commands.Recognizer`."""

    def __init__(self, engine: Engine, domain: str) -> None:
        self._engine, self._domain = engine, engine.domain(domain)
        self.way, self.prompt = engine.way(domain), engine.prompt(domain)

    def recognize(self, texts: Sequence[str], answers: Sequence[Sequence[Span] | None], way: Way) -> list[list[Entity]]:
        """Entities of each text, given the LLM's spans for it or None."""
        items = [Item(text, self._domain, answer, way) for text, answer in zip(texts, answers, strict=True)]
        return [recognized.entities for recognized in self._run(items)]

    def confidences(self, texts: Sequence[str]) -> list[float]:
        """How sure the local model is of its whole answer to each text, 0 to 1."""
        return [recognized.confidence for recognized in self._run([Item(text, self._domain) for text in texts])]

    def _run(self, items: Sequence[Item]) -> list[Recognized]:
        chunks = (items[first : first + CHUNK] for first in range(0, len(items), CHUNK))
        return [recognized for chunk in chunks for recognized in self._engine.run(chunk)]


def load(path: Path, domain: str, encoder: str) -> BundleRecognizer:
    """Load a bundle; `encoder` is ignored, for a bundle carries its own. Raises ArtifactError."""
    return BundleRecognizer(Engine.load(path), domain)
