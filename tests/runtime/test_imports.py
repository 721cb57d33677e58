"""What may import what. Each check runs in a fresh interpreter."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ALLOWED = {
    "smallm": {"smallm"},
    "smallm_runtime": {"smallm", "smallm_runtime"},
    "smallm_export": {"smallm", "smallm_export"},
    "smallm_train": {"smallm", "smallm_runtime", "smallm_export", "smallm_train"},
}
FOLDERS = {"smallm": "smallm", "smallm_runtime": "runtime", "smallm_export": "export", "smallm_train": "smallm_train"}


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_the_runtime_loads_neither_torch_nor_transformers() -> None:
    modules = [f"smallm_runtime.{file.stem}" for file in (ROOT / "runtime" / "smallm_runtime").glob("[a-z]*.py")]
    loaded = loaded_by(f"import {', '.join(modules)}")
    assert {"onnxruntime", "grpc", "tokenizers"} <= loaded
    assert not loaded & {"torch", "transformers", "optimum", "onnx", "jieba", "huggingface_hub"}


def test_the_client_needs_no_more_than_a_plain_install() -> None:
    loaded = loaded_by("import smallm.client, smallm.recognize, smallm.cli")
    assert not loaded & {"numpy", "onnxruntime", "tokenizers", "openai", "jinja2", "torch", "safetensors", "rich"}


@pytest.mark.parametrize("package", list(ALLOWED))
def test_dependencies_point_one_way(package: str) -> None:
    for file in (ROOT / FOLDERS[package]).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            ours = {name.split(".")[0] for name in names} & set(ALLOWED)
            assert ours <= ALLOWED[package], f"{file} imports {ours}"
