"""The frozen encoder's hidden states over documents, computed once and cached."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from safetensors.numpy import load_file, save_file
from transformers import AutoModel, PretrainedConfig

from smallm import atomic
from smallm.encoder import Encoder
from smallm.tokenization import TextTokenizer, Tokens
from smallm.windows import cut, stitch

Features = NDArray[np.float16]


class FrozenEncoder:
    """A Hugging Face BERT-like encoder, never trained."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.tokenizer = TextTokenizer.load(encoder.folder)
        self._model = AutoModel.from_pretrained(
            encoder.folder, local_files_only=True, add_pooling_layer=False, dtype=torch.float32
        ).eval()
        self.layers = feature_layers(self._model.config.num_hidden_layers)
        self.hidden = int(self._model.config.hidden_size)
        self.window = _positions(self._model.config) - 2  # without [CLS] and [SEP]

    def features(self, texts: Sequence[Tokens], title: str = "encoding", *, keep: bool = True) -> list[Features]:
        """Hidden states of the chosen layers, one (n, layers, hidden) array a text; cached on disk if `keep`."""
        if not keep:
            return [self._encode(tokens) for tokens in track(texts, description=title, transient=True)]
        file = _cache_folder() / f"{self._key(texts)}.safetensors"
        if file.is_file():
            stored = load_file(file)
            return [stored[str(index)] for index in range(len(texts))]
        computed = [self._encode(tokens) for tokens in track(texts, description=title, transient=True)]
        with atomic.new_file(file) as temporary:
            save_file({str(index): value for index, value in enumerate(computed)}, temporary)
        return computed

    @torch.inference_mode()
    def _encode(self, tokens: Tokens) -> Features:
        windows = cut(len(tokens), self.window)
        if not windows:
            return np.zeros((0, len(self.layers), self.hidden), dtype=np.float16)
        outputs = []
        for window in windows:
            inputs = self.tokenizer.encoder_inputs([tokens.ids[window.start : window.end]])
            ids, mask = (torch.from_numpy(array) for array in inputs.values())
            states = self._model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
            chosen = torch.stack([states[layer][0, 1:-1] for layer in self.layers], dim=1)
            outputs.append(chosen.half().numpy())
        return stitch(windows, outputs)

    def _key(self, texts: Sequence[Tokens]) -> str:
        digest = hashlib.sha256(f"{self.encoder.fingerprint} {self.layers} {self.window}".encode())
        for tokens in texts:
            digest.update(np.array([len(tokens), *tokens.ids], dtype=np.int64).tobytes())
        return digest.hexdigest()[:32]


def feature_layers(count: int) -> list[int]:
    """The embeddings (layer 0) and up to four evenly spaced layers that end in the last."""
    kept = min(count, 4)
    return [0, *(round(count * (index + 1) / kept) for index in range(kept))]


def _positions(config: PretrainedConfig) -> int:
    """Tokens the encoder takes; RoBERTa's kind counts positions from the padding id onwards."""
    offset = (config.pad_token_id or 0) + 1 if "roberta" in config.model_type else 0
    return int(config.max_position_embeddings) - offset


def _cache_folder() -> Path:
    base = os.environ.get("SMALLM_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "smallm")
    return Path(base) / "features"
