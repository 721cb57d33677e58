"""A bundle on disk to a version that may serve: verified, loaded, verified again, warmed up, its canaries answered."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from smallm import bundle
from smallm.errors import ArtifactError, LoadError
from smallm_runtime.engine import Engine, Item


@dataclass(frozen=True)
class Loaded:
    """A bundle that is ready to serve."""

    name: str
    fingerprint: str
    engine: Engine


def fingerprint(path: Path) -> str:
    """sha256 of the manifest, which holds those of all files; hexadecimal. Raises LoadError."""
    try:
        return hashlib.sha256((path / bundle.MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        reason = f"no {bundle.MANIFEST}" if isinstance(error, FileNotFoundError) else str(error.strerror)
        raise LoadError("BUNDLE_INVALID", f"{path}: {reason}; `smallm export-onnx` writes a bundle") from None


def load(path: Path, threads: int | None, device: str) -> Loaded:
    """Load the bundle that `path` leads to now. Takes seconds, blocks. Raises LoadError.

    The files are hashed before and after they are read: a folder that is replaced meanwhile, in whole or
    in part, is refused rather than served half old and half new.
    """
    folder = path.resolve()
    begun = fingerprint(folder)
    try:
        engine = Engine.load(folder, threads, device)
    except ArtifactError as error:
        raise LoadError("BUNDLE_INVALID", str(error)) from None
    try:
        bundle.read(folder)
        same = fingerprint(folder) == begun
    except ArtifactError:
        same = False
    if not same:
        raise LoadError("BUNDLE_CHANGED", f"{path}: was changed while it was read; reload when it is complete")
    try:
        _warm_up(engine)
    except Exception as error:
        raise LoadError("WARM_UP_FAILED", f"{path}: cannot answer ({type(error).__name__})") from error
    _check_canaries(engine)
    return Loaded(folder.name, begun, engine)


def _warm_up(engine: Engine) -> None:
    """First runs are slow: of the graphs, and of the prompt's template."""
    engine.recognize([Item("预热", name) for name in engine.domains])
    for name in engine.domains:
        prompt = engine.prompt(name)
        if prompt is not None:
            prompt.messages("预热")


def _check_canaries(engine: Engine) -> None:
    """Bundles carry no canary texts yet: nothing to check."""
