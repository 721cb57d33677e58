from __future__ import annotations

from pathlib import Path

import pytest
from smallm_runtime import sessions

from smallm.errors import ArtifactError


@pytest.mark.parametrize(
    ("quota", "expected"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("broken", 8)]
)
def test_threads_follow_the_containers_quota(
    quota: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(sessions, "_CGROUP_V2", tmp_path / "cpu.max")
    monkeypatch.setattr(sessions, "_CGROUP_V1", (tmp_path / "none", tmp_path / "none"))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    assert sessions.available_cpus() == expected


def test_a_damaged_graph_and_a_missing_gpu_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"not a graph")
    with pytest.raises(ArtifactError, match="cannot load"):
        sessions.open_session(tmp_path / "x.onnx", 1)
    with pytest.raises(ArtifactError, match="smallm\\[gpu\\]"):
        sessions.open_session(tmp_path / "x.onnx", 1, "cuda")
