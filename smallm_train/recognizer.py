"""A model folder as a recognizer in PyTorch: what evaluation runs before there is a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from smallm import model_folder
from smallm.crf import Array
from smallm.documents import Span
from smallm.encoder import resolve
from smallm.errors import ArtifactError
from smallm.fusion import Decoded, Entity, Way, entities
from smallm.model_folder import Model
from smallm.votes import one_hot
from smallm_train.features import FrozenEncoder
from smallm_train.head import Head, build_head
from smallm_train.loop import decoder


class TorchRecognizer:
    """See `smallm.commands.Recognizer`."""

    def __init__(self, model: Model, encoder: FrozenEncoder) -> None:
        self.way, self.prompt = model.way, model.prompt
        self._encoder = encoder
        self._head = restore_head(model)
        self._decoder = decoder(self._head, model.labels, temperatures=model.temperatures)

    def recognize(self, texts: Sequence[str], answers: Sequence[Sequence[Span] | None], way: Way) -> list[list[Entity]]:
        """Entities of each text, given the LLM's spans for it or None."""
        tokens = self._encoder.tokenizer.encode_batch(list(texts))
        labels = self._decoder.labels
        return [
            entities(
                self._decode(states, one_hot(answer, encoded.offsets, labels), way), encoded.offsets, answer, labels
            )
            for encoded, states, answer in zip(tokens, self._encoder.features(tokens), answers, strict=True)
        ]

    def confidences(self, texts: Sequence[str]) -> list[float]:
        """How sure the local model is of its whole answer to each text, 0 to 1."""
        tokens = self._encoder.tokenizer.encode_batch(list(texts))
        labels = self._decoder.labels
        return [
            self._decode(states, one_hot(None, encoded.offsets, labels), Way.LOCAL).local_confidence
            for encoded, states in zip(tokens, self._encoder.features(tokens), strict=True)
        ]

    @torch.inference_mode()
    def _decode(self, features: np.ndarray, votes: Array, way: Way) -> Decoded:
        if not len(votes):
            return self._decoder.decode(votes, votes, votes, way)
        voted = torch.from_numpy(votes)[None]
        mask = torch.ones(voted.shape[:2], dtype=torch.bool)
        scores = self._head.scores(torch.from_numpy(features.astype(np.float32))[None], voted, mask)
        fused, local = (score.mean(0) for score in scores)
        return self._decoder.decode(self._head.weigh(fused, local, voted)[0].numpy(), local[0].numpy(), votes, way)


def load(path: Path, domain: str, encoder: str) -> TorchRecognizer:
    """Load a model folder; `encoder` overrides where its encoder lies. Raises ArtifactError.

    A model folder has one domain, so `domain` may only name that one.
    """
    model = model_folder.read(path)
    if domain not in ("", model.domain):
        raise ArtifactError(f"{path}: its domain is '{model.domain}', not '{domain}'")
    resolved = resolve(encoder or model.encoder_name)
    if resolved.fingerprint != model.encoder_fingerprint:
        raise ArtifactError(
            f"{path}: trained with another version of encoder '{model.encoder_name}' than {resolved.folder} holds; "
            "name the right folder with --encoder, or train again"
        )
    return TorchRecognizer(model, FrozenEncoder(resolved))


def restore_head(model: Model) -> Head:
    """The trained head of a model folder, ready for inference. Raises ArtifactError if weights do not fit."""
    shape = model.head
    head = build_head(shape.kind, model.labels, len(shape.layers), shape.hidden, shape.width)
    try:
        head.load_state_dict({name: torch.from_numpy(value) for name, value in model.weights.items()})
    except RuntimeError as error:
        raise ArtifactError(
            f"head.safetensors does not fit model.json: {str(error).splitlines()[-1].strip()}"
        ) from None
    head.weights = shape.weights
    return head.eval()
