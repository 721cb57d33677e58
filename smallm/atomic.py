"""Write beside, then rename: a reader sees the old output or the new one, never half of either."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smallm import __version__
from smallm.errors import ArtifactError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_MAX_JSON = 256 << 20  # bytes


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; swap it into place when the block succeeds.

    An existing folder at `path` is exchanged in one system call where the kernel can do that
    (Linux `renameat2`), so that there is no moment without a complete folder.
    """
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        mask = _umask()
        temporary.chmod(0o777 & ~mask)
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(0o666 & ~mask)  # some writers make files that only their owner can read
                _sync(file)
        if path.exists():
            _exchange(temporary, path)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_versioned(path: Path, version: int, hint: str) -> dict[str, Any]:
    """A JSON object whose `format` is `version`. Raises ArtifactError; `hint` says what writes such a file."""
    return parse_versioned(read_bytes(path, hint), path, version, hint)


def read_bytes(path: Path, hint: str) -> bytes:
    """All of a file that is to hold JSON. Raises ArtifactError; `hint` says what writes such a file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe would be waited for
        with os.fdopen(descriptor, "rb") as handle:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ArtifactError(f"{path}: is no file; {hint}")
            content = handle.read(_MAX_JSON + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{path.parent}: no {path.name}; {hint}") from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > _MAX_JSON:
        raise ArtifactError(f"{path}: larger than {_MAX_JSON >> 20} MB; {hint}")
    return content


def parse_versioned(content: bytes, path: Path, version: int, hint: str) -> dict[str, Any]:
    """`content` of the file at `path` as a JSON object whose `format` is `version`. Raises ArtifactError."""
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path}: not valid JSON ({error.msg}, line {error.lineno})") from None
    except RecursionError:
        raise ArtifactError(f"{path}: nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise ArtifactError(f"{path}: not valid JSON ({error})") from None
    found = value.get("format") if isinstance(value, dict) else None
    if found != version:
        raise ArtifactError(f"{path}: format {str(found)[:40]}; this smallm {__version__} reads {version}; {hint}")
    return dict(value)


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder for intermediate files, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="smallm-") as name:
        yield Path(name)


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text` (UTF-8) in one step."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace the file at `path` by `value` as indented JSON in one step."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def _exchange(new: Path, old: Path) -> None:
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        done = renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE)
        if done == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(code, os.strerror(code), str(old))
    # No exchange on this system: the shortest window that plain renames allow.
    aside = new.with_name(new.name + ".old")
    old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name occurs twice in one object")
    return value


def _sync(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
