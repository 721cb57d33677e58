"""A sealed folder: nothing altered, added, missing or outside is accepted, whatever its manifest says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smallm import seal
from smallm.errors import ArtifactError

Files = dict[str, dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b" / "heads").mkdir(parents=True)
    (tmp_path / "b" / "encoder.onnx").write_bytes(b"weights")
    (tmp_path / "b" / "heads" / "head.onnx").write_bytes(b"head")
    (tmp_path / "b" / "manifest.json").write_text("{}")
    (tmp_path / "secret").write_bytes(b"weights")
    return tmp_path / "b"


def test_what_was_sealed_is_accepted_with_and_without_a_signature_file(folder: Path) -> None:
    files = seal.hashes(folder)
    assert list(files) == ["encoder.onnx", "heads/head.onnx"]
    seal.verify(folder, files)
    (folder / "manifest.sig").write_text("{}")
    assert seal.hashes(folder) == files
    seal.verify(folder, files)


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "heads/../../secret", "heads//head.onnx", "", ".", "heads/.", ".hidden", "C:\\x",
     "heads\\head.onnx", "a" * 300, "heads/head.onnx/", "a\x00b", "a\nb", "manifest.json", "~/x"],
)  # fmt: skip
def test_no_name_leads_out_of_the_folder(folder: Path, name: str) -> None:
    files = seal.hashes(folder)
    with pytest.raises(ArtifactError, match="no name of a file inside"):
        seal.verify(folder, {**files, name: files["encoder.onnx"]})


def _link(folder: Path) -> None:
    (folder / "encoder.onnx").unlink()
    (folder / "encoder.onnx").symlink_to(folder.parent / "secret")


def _linked_folder(folder: Path) -> None:
    (folder / "heads").rename(folder.parent / "heads")
    (folder / "heads").symlink_to(folder.parent / "heads")


def _pipe(folder: Path) -> None:
    (folder / "encoder.onnx").unlink()
    os.mkfifo(folder / "encoder.onnx")  # whoever opened it would wait for ever


def _swap(folder: Path) -> None:
    content = (folder / "encoder.onnx").read_bytes()
    (folder / "encoder.onnx").write_bytes((folder / "heads" / "head.onnx").read_bytes())
    (folder / "heads" / "head.onnx").write_bytes(content)


@pytest.mark.parametrize(
    ("alter", "told"),
    [
        (_link, "encoder.onnx is a link"),
        (_linked_folder, "heads is a link"),
        (_pipe, "encoder.onnx is a link or a device"),
        (_swap, "encoder.onnx has 4 bytes, not 7"),
        (lambda f: (f / "encoder.onnx").write_bytes(b"weights" * 1000), "has 7000 bytes, not 7"),
        (lambda f: (f / "encoder.onnx").write_bytes(b"weighty"), "encoder.onnx was altered"),
        (lambda f: (f / "encoder.onnx").unlink(), "encoder.onnx is missing"),
        (lambda f: (f / "heads" / "more.onnx").write_bytes(b""), "heads/more.onnx is not in the manifest"),
        (lambda f: (f / ".rc").write_bytes(b""), "not in the manifest"),
    ],
)
def test_what_was_altered_is_refused_by_name(folder: Path, alter: Callable[[Path], object], told: str) -> None:
    files = seal.hashes(folder)
    alter(folder)
    with pytest.raises(ArtifactError, match=told):
        seal.verify(folder, files)


@pytest.mark.parametrize(
    "change",
    [[], None, {"a": 1}, {"encoder.onnx": {}}, {"encoder.onnx": {"bytes": "7", "sha256": "0"}},
     {f"f{index}": {} for index in range(10_001)}],
)  # fmt: skip
def test_a_table_of_files_of_any_shape_is_refused_not_stumbled_over(folder: Path, change: Any) -> None:
    files: Any = {**seal.hashes(folder), **change} if isinstance(change, dict) else change
    with pytest.raises(ArtifactError, match="damaged|states no size|files, more than"):
        seal.verify(folder, files)
