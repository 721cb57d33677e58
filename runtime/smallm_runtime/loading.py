"""A bundle on disk to an engine that may serve: verified, loaded, verified again, warmed up, canaries answered."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from smallm import bundle, signing
from smallm.errors import ArtifactError, LoadError
from smallm_runtime import profile as profiles
from smallm_runtime.canaries import verify_canaries
from smallm_runtime.engine import Engine, Item


def fingerprint(folder: Path) -> str:
    """sha256 of the manifest, which holds those of all files; hexadecimal. Raises LoadError."""
    try:
        return hashlib.sha256(bundle.manifest_bytes(folder)).hexdigest()
    except ArtifactError as error:
        raise LoadError("BUNDLE_INVALID", str(error)) from None


def load(
    folder: Path,
    expected: str,
    threads: int | None,
    device: str,
    trusted: Sequence[Path] = (),
    profile: Path | None = None,
    variant: str = "",
) -> Engine:
    """Load the bundle whose fingerprint is `expected`. Takes seconds, blocks. Raises LoadError.

    With `trusted` public keys, one of them must have signed it. `profile` is a file of `smallm tune`, None the one
    beside the folder; `threads` come before its.

    `folder` is followed through no link any more, and its files are hashed before and after they are read: one
    that is replaced meanwhile, in whole or in part, is refused rather than served half old and half new.
    """
    try:
        if trusted:
            _check_signature(folder, expected, trusted)
        engine = Engine.load(folder, threads, device, profiles.read(folder, profile), variant)
    except ArtifactError as error:
        raise LoadError("BUNDLE_INVALID", str(error)) from None
    except Exception as error:  # too little memory, say
        raise LoadError("LOAD_FAILED", f"{folder}: cannot be loaded ({type(error).__name__})") from error
    if not _is_still(folder, expected):
        raise LoadError("BUNDLE_CHANGED", f"{folder}: was changed while it was read; reload when it is complete")
    try:
        _warm_up(engine)
    except Exception as error:
        raise LoadError("WARM_UP_FAILED", f"{folder}: cannot answer ({type(error).__name__})") from error
    _check_canaries(engine)
    return engine


def _check_signature(folder: Path, expected: str, trusted: Sequence[Path]) -> None:
    """What is signed is what is loaded: the manifest of this fingerprint, which is looked at again after loading."""
    raw = bundle.manifest_bytes(folder)
    if hashlib.sha256(raw).hexdigest() != expected:
        raise ArtifactError(f"{folder}: was changed while it was read; reload when it is complete")
    signing.verify(raw, folder / bundle.SIGNATURES, trusted)


def _is_still(folder: Path, expected: str) -> bool:
    try:
        bundle.read(folder)
        return fingerprint(folder) == expected
    except ArtifactError:
        return False


def probe(engine: Engine) -> Item:
    """A text for any domain, to see whether the engine answers."""
    return Item("预热", engine.domains[0])


def _warm_up(engine: Engine) -> None:
    """First runs are slow: of the graphs, and of the prompt's template."""
    engine.recognize([Item("预热", name) for name in engine.domains])
    for name in engine.domains:
        prompt = engine.prompt(name)
        if prompt is not None:
            prompt.messages("预热")


def _check_canaries(engine: Engine) -> None:
    """The bundle's canary texts, asked again. Raises LoadError."""
    wrong = verify_canaries(engine)
    if wrong:
        raise LoadError("CANARY_FAILED", f"answers otherwise than when it was exported: {'; '.join(wrong[:3])}")
