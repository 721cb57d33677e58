"""The folder of an adapted encoder: a Hugging Face folder like any other, and which texts it has learned from.

adapted.json   method, options, the encoder it was, and a hash of each text learned from
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from smallm import __version__, atomic
from smallm.encoder import Encoder
from smallm.errors import ArtifactError
from smallm_train.adapt.network import AdaptOptions, EncoderNetwork
from smallm_train.features import FrozenEncoder
from smallm_train.tagger import Tagger

ADAPTED = "adapted.json"


def write(
    out: Path,
    tagger: Tagger,
    source: FrozenEncoder,
    options: AdaptOptions,
    texts: Iterable[str],
    figures: dict[str, float],
) -> None:
    """Write the tagger's encoder, merged, in one step."""
    network = tagger.network
    assert isinstance(network, EncoderNetwork)
    with atomic.new_directory(out) as folder:
        network.merged().half().save_pretrained(folder)  # type: ignore[operator]
        source.tokenizer.save(folder / "tokenizer.json")
        card = {
            "smallm": __version__,
            "from": {"name": source.encoder.name, "fingerprint": source.encoder.fingerprint},
            "options": asdict(options),
            "figures": figures,
            "learned_from": sorted({_hash(text) for text in texts}),
        }
        atomic.write_json(folder / ADAPTED, card)


def unseen(encoder: Encoder, texts: Sequence[str]) -> list[int]:
    """Indices of the texts that the encoder has not learned from with their labels. Raises ArtifactError."""
    file = encoder.folder / ADAPTED
    if not file.is_file():
        return list(range(len(texts)))
    try:
        known = set(json.loads(file.read_text(encoding="utf-8"))["learned_from"])
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ArtifactError(f"{file}: damaged; adapt the encoder again") from None
    return [index for index, text in enumerate(texts) if _hash(text) not in known]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
