"""Bundles that differ, made from one."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from smallm.bundle import MANIFEST, head_file


def variant(source: Path, out: Path, temperature: float) -> Path:
    """A copy of `source` whose heads have another temperature: the same entities with other scores."""
    import onnx

    shutil.copytree(source, out)
    file = out / MANIFEST
    manifest = json.loads(file.read_text(encoding="utf-8"))
    for name, domain in manifest["domains"].items():
        file_name, found = head_file(name, "int8"), list(domain["temperatures"].values())
        head = out / file_name
        graph = onnx.load(head)
        arrays = [(one, onnx.numpy_helper.to_array(one)) for one in graph.graph.initializer]
        kept = [(one, array) for one, array in arrays if array.size == 2 and np.allclose(array.ravel(), found, 1e-3)]
        assert len(kept) == 1, "the graph keeps its temperatures otherwise by now"
        one, array = kept[0]
        one.CopyFrom(onnx.numpy_helper.from_array(np.full_like(array, temperature), one.name))
        onnx.save(graph, head)
        domain["canaries"] = []  # they tell the old confidence
        domain["temperatures"] = dict.fromkeys(domain["temperatures"], temperature)
        manifest["files"][file_name]["sha256"] = hashlib.sha256(head.read_bytes()).hexdigest()
        manifest["files"][file_name]["bytes"] = head.stat().st_size
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
