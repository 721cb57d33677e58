"""The model folder: what `smallm train` writes, `smallm evaluate` and `export-onnx` read.

model.json             types, encoder reference, head shape, choice on dev, how it was trained
head.safetensors       the head's weights and the CRF's transitions
tokenizer.json         the encoder's tokenizer
prompt.json            what the LLM is told (absent without LLM answers)
reference.safetensors  token ids, votes, gold tags and emissions of dev and train texts: export
                       calibrates int8 on them and measures its parity against them
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from smallm import __version__, atomic
from smallm.crf import constrained
from smallm.errors import ArtifactError, DataError, LabelError
from smallm.fusion import Decoder, Temperatures, Way
from smallm.labels import LabelSet
from smallm.llm.prompt import Prompt
from smallm.tokenization import TextTokenizer

FORMAT = 3
MODEL_FILE = "model.json"
Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Weights:
    """How a head's scores and the LLM's vote are added up where there is a vote.

    `alpha` weighs the vote, by itself for all tags, or first for O and then for each type; `gamma` the local scores;
    `caution` is added to O.
    """

    alpha: tuple[float, ...] = (1.0,)
    gamma: float = 0.0
    caution: float = 0.0

    def by_type(self, types: int) -> tuple[float, ...]:
        """`alpha` for O and each of `types` types."""
        return self.alpha * (types + 1) if len(self.alpha) == 1 else self.alpha

    def by_tag(self, tags: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What votes (n, N) are multiplied by and what is added to emissions, (N,) each; N is `tags`."""
        alpha = np.array(self.by_type((tags - 1) // 2), dtype=np.float32)
        added = np.zeros(tags, dtype=np.float32)
        added[0] = self.caution
        return np.concatenate([alpha[:1], np.repeat(alpha[1:], 2)]), added


@dataclass(frozen=True)
class HeadShape:
    """Which head and its sizes. `layers` are the encoder layers it reads, 0 the embeddings."""

    kind: str
    width: int
    layers: list[int]
    hidden: int
    weights: Weights = Weights()


@dataclass(frozen=True)
class Reference:
    """One text as the head saw it: ids (n,), votes (n, N), gold tags (n,), PyTorch's emissions (n, N)."""

    ids: NDArray[np.int64]
    votes: NDArray[np.float32]
    tags: NDArray[np.int64]
    emissions: NDArray[np.float32]


@dataclass(frozen=True)
class Model:
    """A trained domain, without the encoder's weights."""

    domain: str
    labels: LabelSet
    encoder_name: str
    encoder_fingerprint: str
    window: int
    head: HeadShape
    weights: Tensors
    way: Way
    temperatures: Temperatures
    prompt: Prompt | None
    dev_references: list[Reference]
    train_references: list[Reference]
    training: dict[str, Any] = field(default_factory=dict)

    def decoder(self) -> Decoder:
        """The CRF, its members' transitions averaged."""
        transitions = np.asarray(self.weights["transitions"], dtype=np.float32).mean(0)
        return Decoder(self.labels, *constrained(transitions, self.labels), self.temperatures)


def write(path: Path, model: Model, tokenizer: TextTokenizer) -> None:
    """Write the folder in one step; an existing one is replaced, never mixed."""
    card = {
        "format": FORMAT,
        "smallm": __version__,
        "domain": model.domain,
        "types": list(model.labels.types),
        "encoder": {"name": model.encoder_name, "fingerprint": model.encoder_fingerprint, "window": model.window},
        "head": asdict(model.head),
        "way": str(model.way),
        "temperatures": asdict(model.temperatures),
        "training": model.training,
    }
    with atomic.new_directory(path) as folder:
        save_file(model.weights, folder / "head.safetensors")
        tokenizer.save(folder / "tokenizer.json")
        if model.prompt is not None:
            atomic.write_json(folder / "prompt.json", model.prompt.to_json())
        references = _pack("dev", model.dev_references) | _pack("train", model.train_references)
        save_file(references, folder / "reference.safetensors")
        atomic.write_json(folder / MODEL_FILE, card)


def read(path: Path) -> Model:
    """Read a model folder. Raises ArtifactError naming what is missing or of another version."""
    card = atomic.read_versioned(path / MODEL_FILE, FORMAT, "`smallm train` writes such a folder")
    try:
        weights = load_file(path / "head.safetensors")
        references = load_file(path / "reference.safetensors")
        prompt_file = path / "prompt.json"
        prompt = Prompt.load(prompt_file) if prompt_file.is_file() else None
        return Model(
            domain=card["domain"],
            labels=LabelSet(tuple(card["types"])),
            encoder_name=card["encoder"]["name"],
            encoder_fingerprint=card["encoder"]["fingerprint"],
            window=int(card["encoder"]["window"]),
            head=_head(card["head"]),
            weights=weights,
            way=Way(card["way"]),
            temperatures=Temperatures(**card["temperatures"]),
            prompt=prompt,
            dev_references=_unpack("dev", references),
            train_references=_unpack("train", references),
            training=card["training"],
        )
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: {Path(str(error.filename)).name} is missing; train the model again") from None
    except (KeyError, TypeError, ValueError, LabelError, SafetensorError, DataError) as error:
        raise ArtifactError(f"{path}: damaged model folder ({error}); train the model again") from None


def _head(card: dict[str, Any]) -> HeadShape:
    told = card["weights"]
    return HeadShape(**card | {"weights": Weights(**told | {"alpha": tuple(told["alpha"])})})


def _pack(name: str, references: list[Reference]) -> Tensors:
    packed: Tensors = {f"{name}.lengths": np.array([len(reference.ids) for reference in references], dtype=np.int64)}
    for part in ("ids", "votes", "tags", "emissions") if references else ():
        packed[f"{name}.{part}"] = np.concatenate([getattr(reference, part) for reference in references])
    return packed


def _unpack(name: str, tensors: Tensors) -> list[Reference]:
    lengths = tensors[f"{name}.lengths"]
    if not len(lengths):
        return []
    ends = np.cumsum(lengths)[:-1]
    parts = (np.split(tensors[f"{name}.{part}"], ends) for part in ("ids", "votes", "tags", "emissions"))
    return [Reference(*values) for values in zip(*parts, strict=True)]
