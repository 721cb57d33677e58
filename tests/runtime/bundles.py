"""Bundles that differ, made from one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from smallm.bundle import MANIFEST


def variant(source: Path, out: Path, temperature: float) -> Path:
    """A copy of `source` whose answers have other scores, and so another fingerprint."""
    shutil.copytree(source, out)
    file = out / MANIFEST
    manifest = json.loads(file.read_text(encoding="utf-8"))
    for domain in manifest["domains"].values():
        domain["temperatures"] = dict.fromkeys(domain["temperatures"], temperature)
    file.write_text(json.dumps(manifest), encoding="utf-8")
    return out


def switch(link: Path, folder: Path) -> None:
    """Let `link` lead to `folder`, in one step, as an operator does with `ln -sfn` and `mv -T`."""
    beside = link.with_name(link.name + ".new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(folder)
    beside.replace(link)


def altered(folder: Path, name: str) -> None:
    """Flip a bit of a file in a bundle."""
    file = folder / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
