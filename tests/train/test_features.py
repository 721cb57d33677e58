from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from smallm.encoder import resolve
from smallm.errors import ArtifactError
from smallm_train.features import FrozenEncoder, feature_layers


def test_a_hugging_face_folder_with_vocab_txt_encodes_texts_longer_than_itself(tiny_encoder: Path) -> None:
    encoder = FrozenEncoder(resolve(str(tiny_encoder)))
    assert (encoder.window, encoder.hidden, encoder.layers) == (94, 32, [0, 1, 2])
    short, long, empty = encoder.features(encoder.tokenizer.encode_batch(["泵漏油", "电机轴承" * 60, ""]))
    assert short.shape == (3, 3, 32) and long.shape == (240, 3, 32) and empty.shape == (0, 3, 32)
    assert np.isfinite(long).all()


def test_cached_features_are_the_computed_ones_and_belong_to_one_encoder(tiny_encoder: Path) -> None:
    encoder = FrozenEncoder(resolve(str(tiny_encoder)))
    tokens = encoder.tokenizer.encode_batch(["更换阀门", "泵"])
    first = encoder.features(tokens)
    encoder._model = None
    assert all(np.array_equal(a, b) for a, b in zip(first, encoder.features(tokens), strict=True))
    with pytest.raises(TypeError):
        encoder.features(tokens[:1])  # other texts are not in the cache


def test_layers_are_spread_and_end_in_the_last() -> None:
    assert [feature_layers(count) for count in (1, 2, 4, 6, 12)] == [
        [0, 1], [0, 1, 2], [0, 1, 2, 3, 4], [0, 2, 3, 4, 6], [0, 3, 6, 9, 12],
    ]  # fmt: skip


def test_an_encoder_that_is_nowhere_fails_at_once_and_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder .*nor|no such folder"):
        resolve("no-such/encoder")
    with pytest.raises(ArtifactError, match="config.json"):
        resolve(str(tmp_path))
