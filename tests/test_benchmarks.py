"""The benchmarks run: tiny, and what they find is not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_latency_measures_every_section(bundle_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "latency.py"), str(bundle_folder), "--out", str(tmp_path)]
    tiny = ["--seconds", "0.2", "--starts", "1", "--growth", "60", "--sweep-step", "200"]
    subprocess.run([*command, *tiny], check=True, capture_output=True, cwd=tmp_path, timeout=300)
    found = json.loads((tmp_path / "latency.json").read_text(encoding="utf-8"))
    assert {"session", "in process", "unary", "closed", "open", "llm", "memory", "cold start"} <= set(found)
    assert found["unary"]["over gRPC"]["p99_ms"] >= found["unary"]["over gRPC"]["p50_ms"] > 0
    assert all(row["answered"] + row["refused"] > 0 for row in found["open"].values())
    assert found["memory"]["peak_mb"] >= found["memory"]["after_sweep_mb"] > 0
    assert "### cold start" in (tmp_path / "latency.md").read_text(encoding="utf-8")
    assert (tmp_path / "latency.png").stat().st_size > 5000


@pytest.mark.slow
def test_compare_finds_the_same_answers_and_measures_in_turns(bundle_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "compare.py"), str(bundle_folder), "embedded", "--servers"]
    tiny = ["--out", str(tmp_path), "--rounds", "1", "--calls", "1", "--seconds", "0.3"]
    subprocess.run([*command, *tiny], check=True, capture_output=True, cwd=tmp_path, timeout=300)
    found = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    assert found["same answers"]["same_labels"] > 0.8 and found["same answers"]["tokens"] > 1000
    assert {"smallm", "transformers sdpa", "transformers eager", "optimum ONNX Runtime"} <= set(
        found["in process, one text"]
    )
