"""What keeps a folder of files as it was made: a manifest with the size and hash of each, and nothing beside them.

A manifest may come from anywhere. No name in it leads out of the folder, nothing larger than it says is read,
and what it does not list is refused.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from smallm.errors import ArtifactError

MANIFEST = "manifest.json"
SIGNATURES = "manifest.sig"
_OUTSIDE = {MANIFEST, SIGNATURES}  # a manifest cannot have its own hash, nor that of what is made from it
_MAX_FILES = 10_000
_MAX_NAME = 240
_STEP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # neither '..' nor '.', nor empty, nor a drive, nor hidden


def hashes(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file in `folder`, by its path there."""
    names = sorted(set(_walk(folder)) - _OUTSIDE)
    return {name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in names}


def verify(folder: Path, files: Any) -> None:
    """Check that `folder` holds exactly `files`, as from `hashes` or as a manifest says. Raises ArtifactError."""
    if not isinstance(files, dict) or not all(isinstance(stated, dict) for stated in files.values()):
        raise ArtifactError(f"{folder / MANIFEST}: damaged (no table of files); export the bundle again")
    if len(files) > _MAX_FILES:
        raise ArtifactError(f"{folder / MANIFEST}: lists {len(files)} files, more than {_MAX_FILES}")
    for name in files:
        if len(name) > _MAX_NAME or not all(map(_STEP.fullmatch, name.split("/"))) or name in _OUTSIDE:
            raise ArtifactError(f"{folder / MANIFEST}: {name[:80]!r} is no name of a file inside the bundle")
    for name in _walk(folder):  # before a hash is made: a link or a pipe is not even opened
        if name not in files and name not in _OUTSIDE:
            raise ArtifactError(f"{folder}: {name} is not in the manifest; remove it, or copy the bundle again")
    for name, stated in files.items():
        _verify_file(folder, name, stated)


def _verify_file(folder: Path, name: str, stated: Mapping[str, Any]) -> None:
    file = folder / name
    if not file.is_file():
        raise ArtifactError(f"{folder}: {name} is missing; copy the bundle again")
    size, digest = stated.get("bytes"), stated.get("sha256")
    if not isinstance(size, int) or not isinstance(digest, str):
        raise ArtifactError(f"{folder / MANIFEST}: states no size and sha256 of {name}; export the bundle again")
    if file.stat().st_size != size:
        raise ArtifactError(f"{folder}: {name} has {file.stat().st_size} bytes, not {size}; copy the bundle again")
    if _sha256(file) != digest:
        raise ArtifactError(f"{folder}: {name} was altered (its sha256 differs from the manifest's); copy it again")


def _walk(folder: Path, prefix: str = "") -> Iterator[str]:
    """Names of the regular files below `folder`. Raises ArtifactError for anything but files and folders."""
    for entry in sorted((folder / prefix).iterdir()):
        name, mode = f"{prefix}{entry.name}", entry.lstat().st_mode
        if stat.S_ISDIR(mode):
            yield from _walk(folder, f"{name}/")
        elif stat.S_ISREG(mode):
            yield name
        else:
            raise ArtifactError(f"{folder}: {name} is a link or a device; a bundle holds files and folders only")


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
