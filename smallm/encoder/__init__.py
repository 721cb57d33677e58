"""Which encoder: the embedded default, a local folder, or a Hugging Face name in the local cache."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from smallm.errors import ArtifactError

EMBEDDED = "embedded"


@dataclass(frozen=True)
class Encoder:
    """A resolved encoder: what the user named, where it lies, and a hash of what defines it."""

    name: str
    folder: Path
    fingerprint: str


def resolve(name: str = EMBEDDED) -> Encoder:
    """Find an encoder: `embedded`, a folder, or a hub name that was downloaded before.

    Never asks the network: a missing encoder fails at once. Raises ArtifactError.
    """
    folder = Path(__file__).parent / EMBEDDED if name == EMBEDDED else _folder(name)
    if not (folder / "config.json").is_file():
        raise ArtifactError(f"encoder '{name}': {folder} has no config.json; a Hugging Face model folder is needed")
    weights = [file for pattern in ("*.safetensors", "*.bin") for file in sorted(folder.glob(pattern))]
    if not any(file.suffix == ".safetensors" for file in weights):
        raise ArtifactError(f"encoder '{name}': {folder} has no *.safetensors weights; convert them first")
    return Encoder(name if name == EMBEDDED else str(name), folder, _fingerprint(folder))


def _folder(name: str) -> Path:
    local = Path(name).expanduser().resolve()
    if local.is_dir():
        return local
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        raise ArtifactError(
            f"encoder '{name}': no such folder ({local}) and no such model in the Hugging Face cache; "
            f"download it where there is a network with `hf download {name}`, or name a folder"
        ) from None


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    digest.update(json.dumps(config, sort_keys=True).encode())
    names = ("tokenizer.json", "vocab.txt", *(file.name for file in sorted(folder.glob("*.safetensors"))))
    for file in (folder / name for name in names):
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()[:32]
