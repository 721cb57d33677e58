"""A server under measurement: a process of its own, its CPU time and its memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TICKS = os.sysconf("SC_CLK_TCK")
START_S = 120


def smallm_serve(bundle: Path, *options: str) -> list[str]:
    """The command that serves `bundle`; without an LLM unless `options` say otherwise."""
    return [sys.executable, "-m", "smallm.cli", "serve", str(bundle), "--listen", "127.0.0.1:0", *options]


class Served:
    """Runs `command`, whose first line ends in its address; use it in a `with` block.

    `cold_start_s` is from the start of the process until health says SERVING.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        begin = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip().rpartition(" ")[2]
        if not self.address:
            raise SystemExit(f"{' '.join(command)}: did not start")
        with grpc.insecure_channel(self.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while not self._serving(health):
                if time.perf_counter() - begin > START_S:
                    raise SystemExit("the server does not become SERVING")
                time.sleep(0.005)
        self.cold_start_s = time.perf_counter() - begin

    def __enter__(self) -> Served:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(30)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def cpu_s(self) -> float:
        """CPU seconds used so far, all threads."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_mb(self) -> float:
        """Resident memory now, in MB of 10^6 bytes."""
        return self._status("VmRSS")

    def peak_mb(self) -> float:
        """The most that it ever was."""
        return self._status("VmHWM")

    def _status(self, name: str) -> float:
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name + ":"))

    @staticmethod
    def _serving(health: health_pb2_grpc.HealthStub) -> bool:
        try:
            reply = health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=5)
        except grpc.RpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


class Process:
    """Any other server, with its children; use it in a `with` block."""

    def __init__(self, command: Sequence[str]) -> None:
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
