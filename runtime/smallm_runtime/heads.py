"""A bundle's heads: encoded texts and LLM answers in, entities out, many texts in one run of a graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from smallm import bundle
from smallm.alignment import Offsets
from smallm.bundle import Domain
from smallm.documents import Span
from smallm.fusion import Decoded, Decoder, Entity, Way, entities
from smallm.llm.prompt import Prompt
from smallm.votes import one_hot
from smallm_runtime.sessions import open_session

MAX_BATCH_TOKENS = 2048  # padded tokens of one run; bounds its memory


@dataclass(frozen=True)
class Encoded:
    """A text of n tokens as a head takes it: `features` (n, layers, hidden), `offsets` in code points.

    `answer` are the LLM's spans, None if absent; `way` None takes the domain's.
    """

    features: NDArray[np.floating]
    offsets: Offsets
    answer: Sequence[Span] | None = None
    way: Way | None = None


@dataclass(frozen=True)
class Recognized:
    """A text's entities, and the local model's confidence in its own, whole answer."""

    entities: list[Entity]
    confidence: float


@dataclass(frozen=True)
class Head:
    """One domain's graph. It decodes by the domain's way; `decoder` is for a text that asks for another."""

    session: onnxruntime.InferenceSession
    decoder: Decoder
    way: Way
    prompt: Prompt | None

    @classmethod
    def load(cls, folder: Path, name: str, domain: Domain, graph: str) -> Head:
        """The head of `domain` in the bundle in `folder`, whose file is `graph`. Raises ArtifactError."""
        prompt = folder / bundle.prompt_file(name)
        session = open_session(folder / graph, 1)  # too small to share out
        return cls(session, domain.decoder(), domain.answers_by, Prompt.load(prompt) if prompt.is_file() else None)

    def run(self, texts: Sequence[Encoded]) -> list[Recognized]:
        """Entities of each text; texts of similar length share a run."""
        results: dict[int, Recognized] = {index: Recognized([], 1.0) for index in range(len(texts))}
        for chosen in _batches([len(text.offsets) for text in texts]):
            batch = [texts[index] for index in chosen]
            for index, text, decoded in zip(chosen, batch, self._decode(batch), strict=True):
                found = entities(decoded, text.offsets, text.answer, self.decoder.labels)
                results[index] = Recognized(found, decoded.local_confidence)
        return list(results.values())

    def _decode(self, texts: Sequence[Encoded]) -> list[Decoded]:
        feed = self._feed(texts)
        tags, scores, local_tags, local_scores, confidence, emissions = self.session.run(None, feed)
        decoded = []
        for row, text in enumerate(texts):
            size = len(text.offsets)
            one = Decoded(tags[row, :size], scores[row, :size], local_tags[row, :size], float(confidence[row]))
            if text.answer is not None and text.way not in (None, self.way):
                if text.way is Way.LOCAL:
                    one = replace(one, tags=one.local_tags, scores=local_scores[row, :size])
                else:
                    votes = feed["votes"][row, :size]
                    found, scored = self.decoder.answered(emissions[row, :size], votes, text.way)
                    one = replace(one, tags=found, scores=scored)
            decoded.append(one)
        return decoded

    def _feed(self, texts: Sequence[Encoded]) -> dict[str, NDArray[Any]]:
        lengths = np.array([len(text.offsets) for text in texts], dtype=np.int64)
        shape = len(texts), int(lengths.max())
        features = np.zeros((*shape, *texts[0].features.shape[1:]), dtype=np.float32)
        votes = np.zeros((*shape, self.decoder.labels.num_tags), dtype=np.float32)
        for row, text in enumerate(texts):
            features[row, : lengths[row]] = text.features
            if text.answer is not None:
                votes[row, : lengths[row]] = one_hot(text.answer, text.offsets, self.decoder.labels)
        return {"features": features, "votes": votes, "lengths": lengths}


def recognize_all(asked: Sequence[tuple[Head, Encoded]]) -> list[Recognized]:
    """Each text by its head, all texts of a head together."""
    results: dict[int, Recognized] = {}
    groups: dict[int, list[int]] = {}
    for index, (head, _) in enumerate(asked):
        groups.setdefault(id(head), []).append(index)
    for indices in groups.values():
        head = asked[indices[0]][0]
        results |= zip(indices, head.run([asked[index][1] for index in indices]), strict=True)
    return [results[index] for index in range(len(asked))]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of texts that have tokens, longest first, in batches of at most MAX_BATCH_TOKENS padded tokens."""
    order = sorted((index for index, length in enumerate(lengths) if length), key=lambda index: -lengths[index])
    while order:
        size = max(1, MAX_BATCH_TOKENS // lengths[order[0]])
        yield order[:size]
        del order[:size]
