"""A loaded bundle: texts and LLM answers in, entities out. Knows no transport."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from smallm import bundle
from smallm.bundle import Manifest
from smallm.crf import Array
from smallm.documents import Span
from smallm.fusion import Decoder, Entity, Way, head_inputs, recognize
from smallm.llm.prompt import Prompt
from smallm.tokenization import TextTokenizer, Tokens
from smallm.windows import cut, stitch
from smallm_runtime.sessions import available_cpus, open_session

MAX_BATCH_TOKENS = 4096  # padded tokens an encoder call; bounds its memory


@dataclass(frozen=True)
class Item:
    """One text to recognise. `answer` are the LLM's spans, None if absent; `way` None takes the domain's.

    `confidence` asks for the local model's, which costs another run of the head.
    """

    text: str
    domain: str = ""
    answer: Sequence[Span] | None = None
    way: Way | None = None
    confidence: bool = False


@dataclass(frozen=True)
class Recognized:
    """A text's entities, and the local model's confidence in its own if it was asked for."""

    entities: list[Entity]
    confidence: float | None = None


@dataclass(frozen=True)
class _Head:
    session: onnxruntime.InferenceSession
    decoder: Decoder
    way: Way
    prompt: Prompt | None

    def emissions(self, features: NDArray[np.floating], votes: Array) -> Array:
        scores: Array = self.session.run(None, head_inputs(features, votes))[0][0]
        return scores

    def confidence(self, features: NDArray[np.floating]) -> float:
        if not len(features):
            return 1.0
        unasked = np.zeros((len(features), self.decoder.labels.num_tags), dtype=np.float32)
        return self.decoder.confidence(self.emissions(features, unasked))


class Engine:
    """Encoder, heads and tokenizer of one bundle. Thread-safe; one call at a time is fastest."""

    def __init__(self, folder: Path, manifest: Manifest, threads: int, device: str) -> None:
        self.manifest = manifest
        self._tokenizer = TextTokenizer.load(folder)
        self._encoder = open_session(folder / bundle.ENCODER, threads, device)
        self._heads = {
            name: _Head(
                open_session(folder / bundle.head_file(name), 1),  # too small to share out
                domain.decoder(),
                domain.answers_by,
                Prompt.load(file) if (file := folder / bundle.prompt_file(name)).is_file() else None,
            )
            for name, domain in manifest.domains.items()
        }

    @classmethod
    def load(cls, folder: Path, threads: int | None = None, device: str = "cpu") -> Engine:
        """Verify and load the bundle in `folder`. Raises ArtifactError."""
        return cls(folder, bundle.read(folder), threads or available_cpus(), device)

    @property
    def domains(self) -> list[str]:
        """Names of the heads."""
        return list(self._heads)

    def domain(self, name: str) -> str:
        """The full name of a domain; '' is the only one. Raises UnknownDomainError."""
        return self.manifest.domain(name)[0]

    def types(self, domain: str) -> list[str]:
        """Entity types of a domain."""
        return self.manifest.domain(domain)[1].types

    def way(self, domain: str) -> Way:
        """How the domain answers where there is an LLM answer, as chosen on dev."""
        return self._heads[self.domain(domain)].way

    def prompt(self, domain: str) -> Prompt | None:
        """What the LLM is told; None if the domain was trained without one."""
        return self._heads[self.domain(domain)].prompt

    def recognize(self, items: Sequence[Item]) -> list[list[Entity]]:
        """Entities of each item, ascending; items may mix domains. Raises UnknownDomainError."""
        return [recognized.entities for recognized in self.run(items)]

    def run(self, items: Sequence[Item]) -> list[Recognized]:
        """As `recognize`, with confidences. Raises UnknownDomainError."""
        heads = [self._heads[self.domain(item.domain)] for item in items]
        tokens = self._tokenizer.encode_batch([item.text for item in items])
        features = self._features(tokens)
        return [
            Recognized(
                recognize(states, encoded.offsets, item.answer, head.emissions, head.decoder, item.way or head.way),
                head.confidence(states) if item.confidence else None,
            )
            for item, head, encoded, states in zip(items, heads, tokens, features, strict=True)
        ]

    def _features(self, texts: Sequence[Tokens]) -> list[Array]:
        """Hidden states (n, layers, hidden) of each text, its windows encoded beside those of others."""
        info = self.manifest.encoder
        windows = [cut(len(tokens), info.window) for tokens in texts]
        parts = [tokens.ids[w.start : w.end] for tokens, cuts in zip(texts, windows, strict=True) for w in cuts]
        outputs = iter(self._encode(parts))
        empty = np.zeros((0, len(info.layers), info.hidden), dtype=np.float32)
        return [stitch(cuts, [next(outputs) for _ in cuts]) if cuts else empty for cuts in windows]

    def _encode(self, parts: Sequence[list[int]]) -> list[Array]:
        order = sorted(range(len(parts)), key=lambda index: len(parts[index]))
        results: dict[int, Array] = {}
        while order:
            longest = len(parts[order[-1]]) + 2
            chosen = order[-max(1, MAX_BATCH_TOKENS // longest) :]
            del order[-len(chosen) :]
            stacked = self._encoder.run(None, self._tokenizer.encoder_inputs([parts[index] for index in chosen]))[0]
            for row, index in enumerate(chosen):
                results[index] = stacked[row, 1 : len(parts[index]) + 1]
        return [results[index] for index in range(len(parts))]
