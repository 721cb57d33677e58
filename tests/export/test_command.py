from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from smallm import bundle
from smallm.cli import main
from smallm.errors import ArtifactError


def test_a_bundle_is_self_contained_and_lists_every_file(bundle_folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(bundle_folder, moved)
    manifest = bundle.read(moved)
    on_disk = {file.relative_to(moved).as_posix() for file in moved.rglob("*") if file.is_file()}
    assert on_disk == {*manifest.files, "manifest.json"}
    assert {
        "encoder.int8.onnx",
        "tokenizer.json",
        "heads/work_orders/head.int8.onnx",
        "heads/work_orders/prompt.json",
    } <= on_disk
    assert list(manifest.variants) == ["int8"] and manifest.tools["onnxruntime"]


def test_an_altered_a_missing_and_a_foreign_file_are_refused_by_name(bundle_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle_folder, copy)
    graph = copy / "heads" / "work_orders" / "head.int8.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[:-1] + b"x")
    with pytest.raises(ArtifactError, match="heads/work_orders/head.int8.onnx was altered"):
        bundle.read(copy)
    graph.unlink()
    with pytest.raises(ArtifactError, match="head.int8.onnx is missing"):
        bundle.read(copy)
    manifest = copy / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    with pytest.raises(ArtifactError, match="manifest.json: format 99; .* `smallm export-onnx` writes one"):
        bundle.read(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"domains": []},
        {"domains": {"../../etc": None}},
        {"encoder": {}},
        {"surprise": 1},
        {"files": {}},
    ],
)
def test_a_damaged_manifest_is_refused(bundle_folder: Path, tmp_path: Path, change: dict[str, object]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle_folder, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    if isinstance(change.get("domains"), dict):
        change = {"domains": {"../../etc": manifest["domains"]["work_orders"]}}
    (copy / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(ArtifactError, match="manifest.json: (damaged|does not list)"):
        bundle.read(copy)


def test_two_domains_share_one_encoder(
    model_folder: Path, tmp_path: Path, sample: object, capsys: pytest.CaptureFixture[str]
) -> None:
    second, out = tmp_path / "second", tmp_path / "bundle"
    shutil.copytree(model_folder, second)
    card = json.loads((second / "model.json").read_text())
    (second / "model.json").write_text(json.dumps({**card, "domain": "second"}))
    assert main(["export-onnx", str(model_folder), str(second), "--out", str(out), "--no-gate"]) == 0
    assert list(bundle.read(out).domains) == ["work_orders", "second"]
    assert main(["export-onnx", str(model_folder), str(model_folder), "--out", str(out)]) == 1
    assert "same domain" in capsys.readouterr().err
