"""Hostile bundles: a good one after something was done to it, with its manifest left or made to fit."""

from __future__ import annotations

import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smallm import bundle

OUTSIDE = [
    "../secret",
    "/etc/passwd",
    "heads/../../x",
    "..",
    "heads/./x",
    "a//b",
    "\x00",
    "x" * 5000,
    "C:\\x",
    "..\\x",
]
FREE = {"training", "parity"}  # figures for people


def _manifest(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / bundle.MANIFEST).read_text(encoding="utf-8"))
    return value


def _write(folder: Path, value: object) -> None:
    (folder / bundle.MANIFEST).write_text(json.dumps(value), encoding="utf-8")


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.name != bundle.MANIFEST)


def _flip(folder: Path, source: random.Random) -> None:
    file = source.choice(_files(folder))
    content = bytearray(file.read_bytes())
    content[source.randrange(len(content))] ^= 1 << source.randrange(8)
    file.write_bytes(content)


def _truncate(folder: Path, source: random.Random) -> None:
    file = source.choice([*_files(folder), folder / bundle.MANIFEST])
    os.truncate(file, source.randrange(file.stat().st_size))


def _grow(folder: Path, source: random.Random) -> None:
    """To 64 MB that take no disk; half of them with a manifest that says so too."""
    file = source.choice(_files(folder))
    os.truncate(file, 64 << 20)
    if source.random() < 0.5:
        value = _manifest(folder)
        value["files"][file.relative_to(folder).as_posix()]["bytes"] = 64 << 20
        _write(folder, value)


def _swap(folder: Path, source: random.Random) -> None:
    one, other = source.sample(_files(folder), 2)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def _remove(folder: Path, source: random.Random) -> None:
    source.choice([*_files(folder), folder / bundle.MANIFEST]).unlink()


def _add(folder: Path, source: random.Random) -> None:
    (folder / source.choice(["more", ".hidden", "heads/more.onnx", "manifest.json~"])).write_bytes(b"x")


def _escape(folder: Path, source: random.Random) -> None:
    value = _manifest(folder)
    stated = value["files"].pop(source.choice(list(value["files"])))
    value["files"][source.choice(OUTSIDE)] = stated
    _write(folder, value)


def _domain_escapes(folder: Path, source: random.Random) -> None:
    value = _manifest(folder)
    value["domains"] = {source.choice(OUTSIDE): next(iter(value["domains"].values()))}
    _write(folder, value)


def _link(folder: Path, source: random.Random) -> None:
    file = source.choice(_files(folder))
    file.unlink()
    file.symlink_to(source.choice(["/etc/passwd", "../../secret", "/dev/zero", "/dev/stdin", str(file)]))


def _pipe(folder: Path, source: random.Random) -> None:
    file = source.choice([*_files(folder), folder / bundle.MANIFEST])
    file.unlink()
    os.mkfifo(file)


def _strange_manifest(folder: Path, source: random.Random) -> None:
    value = _manifest(folder)
    texts: list[str | bytes] = [
        "", "null", "[]", "3", "{}", '{"format": 2, "format": 2}', "[" * 200_000, "\x00", '{"a": NaN}', b"\xed\xa0\x80",
        "1" * 100_000, '{"format": ' + "9" * 5000 + "}",
    ]  # fmt: skip
    text = source.choice(texts)
    if source.random() < 0.6:  # a value of a kind that it never has, but where anything goes
        table = source.choice([value, value["encoder"], value["files"], *value["domains"].values()])
        table[source.choice([name for name in table if name not in FREE])] = source.choice([None, [None], {"": None}])
        text = json.dumps(value)
    (folder / bundle.MANIFEST).write_bytes(text if isinstance(text, bytes) else text.encode())


def _archive(folder: Path, source: random.Random) -> None:
    """A zip bomb, and a file, in the place of the folder."""
    shutil.rmtree(folder)
    with zipfile.ZipFile(folder, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr(bundle.MANIFEST, b"\x00" * (1 << 20))


KINDS: dict[str, Callable[[Path, random.Random], None]] = {
    "bit flipped": _flip,
    "truncated": _truncate,
    "oversized": _grow,
    "swapped": _swap,
    "file missing": _remove,
    "file too many": _add,
    "path escapes": _escape,
    "domain escapes": _domain_escapes,
    "link": _link,
    "pipe": _pipe,
    "strange manifest": _strange_manifest,
    "archive": _archive,
}


def harm(kind: str, good: Path, out: Path, seed: int) -> Path:
    """A copy of `good` at `out` with harm of a kind done to it."""
    shutil.copytree(good, out)
    KINDS[kind](out, random.Random(f"{kind}/{seed}"))
    return out
