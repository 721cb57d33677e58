"""ONNX Runtime sessions: the one place that decides threads, memory and provider."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import onnxruntime

from smallm.bundle import SLOW_ON_CPU
from smallm.errors import ArtifactError

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def available_cpus() -> int:
    """Whole CPUs this process may use: its affinity, cut to the container's quota; at least 1."""
    return max(1, int(min(len(os.sched_getaffinity(0)), _quota())))


def open_session(
    model: Path, threads: int, device: str = "cpu", spinning: bool = False, arena: bool = False
) -> onnxruntime.InferenceSession:
    """Open a graph. Raises ArtifactError if it is damaged or `device` cannot be had (no silent fallback).

    Unless a profile measured otherwise, the memory arena is off (it would keep the largest shape it ever saw) and
    threads do not spin (on a shared machine spinning costs more than waking).
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = arena
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.log_severity_level = 3
    provider = PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise ArtifactError(
            f"this onnxruntime has no {provider}; for a GPU install 'smallm[gpu]' instead of 'smallm[cpu]'"
        )
    slow = SLOW_ON_CPU if device == "cpu" else ()
    try:
        session = onnxruntime.InferenceSession(model, options, providers=[provider], disabled_optimizers=slow)
    except Exception as error:  # onnxruntime raises its own unexported kinds
        raise ArtifactError(f"{model}: ONNX Runtime cannot load it: {str(error)[:300]}") from None
    if provider not in session.get_providers():
        raise ArtifactError(f"asked for {provider}, ONNX Runtime fell back to {session.get_providers()[0]}; refusing")
    return session


def release_memory() -> None:
    """Give back to the system what large batches left in the allocator; milliseconds, and nothing but on glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _quota() -> float:
    try:
        quota, period = _CGROUP_V2.read_text().split()
        return float("inf") if quota == "max" else max(1.0, int(quota) / int(period))
    except (OSError, ValueError):
        pass
    try:
        quota_us, period_us = (int(file.read_text()) for file in _CGROUP_V1)
        return max(1.0, quota_us / period_us) if quota_us > 0 else float("inf")
    except (OSError, ValueError):
        return float("inf")
