"""The bundle: what `export-onnx` writes and the server needs, and nothing else.

manifest.json            versions, encoder, variants and domains with their figures, canaries, sha256 of every file
manifest.sig             signatures of the manifest, if `smallm bundle sign` made any
tokenizer.json
encoder.VARIANT.onnx     one for all domains
heads/DOMAIN/head.PRECISION.onnx
heads/DOMAIN/prompt.json  what the LLM is told (absent if trained without LLM answers)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from smallm import __version__, atomic
from smallm import seal as sealing
from smallm.crf import Array, constrained
from smallm.errors import ArtifactError, LabelError, UnknownDomainError
from smallm.fusion import Decoder, Temperatures, Way
from smallm.labels import LabelSet

FORMAT = 4  # 3: head graphs decode; 4: variants, canaries
_HINT = "`smallm export-onnx` writes one from the model folder"
MANIFEST, SIGNATURES = sealing.MANIFEST, sealing.SIGNATURES
TOKENIZER = "tokenizer.json"
VARIANTS = ("fp32", "int8", "fp16")
SLOW_ON_CPU = ("SkipLayerNormFusion",)  # of ONNX Runtime: its kernel is slower there than the two that it replaces
DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # also a folder's name inside the bundle


def encoder_file(variant: str) -> str:
    """Path of a variant's encoder graph inside the bundle."""
    return f"encoder.{variant}.onnx"


def head_file(domain: str, precision: str) -> str:
    """Path of a domain's head graph inside the bundle."""
    return f"heads/{domain}/head.{precision}.onnx"


def prompt_file(domain: str) -> str:
    """Path of a domain's prompt inside the bundle."""
    return f"heads/{domain}/prompt.json"


_CONFIG = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # of what is read; a manifest may be anybody's


@dataclass(frozen=True)
class Domain:
    """One head: its entity types, CRF transitions (N rows of N), how it answers, temperatures, figures for people.

    `parity` is PyTorch against the fp32 graphs, `gates` fp32 against each variant, by its name. `canaries` are
    neutral texts with the answer of each variant, as `smallm_runtime.canaries` reads them.
    """

    __pydantic_config__ = _CONFIG
    types: list[str]
    transitions: list[list[float]]
    way: str
    temperatures: dict[str, float]
    training: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    gates: dict[str, Any] = field(default_factory=dict)
    canaries: list[dict[str, Any]] = field(default_factory=list)

    def decoder(self) -> Decoder:
        """The domain's CRF."""
        labels = LabelSet(tuple(self.types))
        matrix: Array = np.array(self.transitions, dtype=np.float32)
        if matrix.shape != (labels.num_tags, labels.num_tags):
            raise ArtifactError(f"transitions of shape {matrix.shape} do not fit {labels.num_tags} tags")
        return Decoder(labels, *constrained(matrix, labels), Temperatures(**self.temperatures))

    @property
    def answers_by(self) -> Way:
        """The way chosen on dev."""
        return Way(self.way)


@dataclass(frozen=True)
class EncoderInfo:
    """`window` counts tokens without [CLS] and [SEP]."""

    __pydantic_config__ = _CONFIG
    name: str
    fingerprint: str
    window: int
    layers: list[int]
    hidden: int


@dataclass(frozen=True)
class Variant:
    """The graphs in one precision: fp32, int8 or fp16.

    `head` is the precision of the heads that belong to it; `cpu` are the features that an x86 processor needs for
    its results to be right; `made` says how it was made; `gated` is false if `--no-gate` let it through.
    """

    __pydantic_config__ = _CONFIG
    head: str
    bytes: int
    cpu: list[str]
    made: dict[str, Any]
    gated: bool


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`. `tools` are the versions of what made the bundle; `files` is filled in by `seal`."""

    __pydantic_config__ = _CONFIG
    variants: dict[str, Variant]
    encoder: EncoderInfo
    domains: dict[str, Domain]
    tools: dict[str, str]
    format: int = FORMAT
    smallm: str = __version__
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def graphs(self, domain: str, variant: str) -> tuple[str, str]:
        """Paths of the encoder and the head of a domain in a variant."""
        return encoder_file(variant), head_file(domain, self.variants[variant].head)

    def domain(self, name: str) -> tuple[str, Domain]:
        """A domain by name; '' means the only one. Raises UnknownDomainError."""
        if not name and len(self.domains) == 1:
            name = next(iter(self.domains))
        if name not in self.domains:
            raise UnknownDomainError(name, list(self.domains))
        return name, self.domains[name]


_MANIFEST = TypeAdapter(Manifest)


def seal(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` with the size and sha256 of every file in `folder`."""
    atomic.write_json(folder / MANIFEST, asdict(manifest) | {"files": sealing.hashes(folder)})


def manifest_bytes(folder: Path) -> bytes:
    """What a signature is over and a fingerprint is of. Raises ArtifactError."""
    return atomic.read_bytes(folder / MANIFEST, _HINT)


def read(folder: Path, *, verify: bool = True, trusted: Sequence[Path] = ()) -> Manifest:
    """Read a bundle's manifest and, unless told otherwise, check every file's hash. Raises ArtifactError.

    With `trusted` public keys, one of them must have signed; nothing of the bundle is believed before.
    """
    raw = manifest_bytes(folder)
    if trusted:
        from smallm import signing  # its library takes a while to load

        signing.verify(raw, folder / SIGNATURES, trusted)
    atomic.parse_versioned(raw, folder / MANIFEST, FORMAT, _HINT)
    try:
        manifest = _MANIFEST.validate_json(raw)
        variants = manifest.variants
        if not variants or any(name not in VARIANTS or one.head not in VARIANTS for name, one in variants.items()):
            raise ValueError(f"variants {', '.join(variants) or 'missing'}; known are {', '.join(VARIANTS)}")
        for name, domain in manifest.domains.items():
            if not DOMAIN_NAME.fullmatch(name):
                raise ValueError(f"'{name}' is no domain name")
            domain.decoder(), domain.answers_by  # noqa: B018 - fail here, not at the first request
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        told = f"{'.'.join(map(str, first['loc']))[:80]}: {first['msg']}"
        raise ArtifactError(f"{folder / MANIFEST}: damaged ({told}); export the bundle again") from None
    except (TypeError, ValueError, LabelError) as error:
        raise ArtifactError(f"{folder / MANIFEST}: damaged ({error}); export the bundle again") from None
    if verify:
        _verify(folder, manifest)
    return manifest


def size(folder: Path) -> int:
    """Bytes of all files in the bundle."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _verify(folder: Path, manifest: Manifest) -> None:
    pairs = [manifest.graphs(domain, variant) for domain in manifest.domains for variant in manifest.variants]
    needed = dict.fromkeys([TOKENIZER, *(file for pair in pairs for file in pair)])
    unlisted = [name for name in needed if name not in manifest.files]
    if unlisted:
        raise ArtifactError(f"{folder / MANIFEST}: does not list {', '.join(unlisted)}; export the bundle again")
    sealing.verify(folder, manifest.files)
