"""A server under test: `smallm serve` in a process of its own, started again when it ends, as a supervisor does."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from smallm.bundle import MANIFEST

RESTART_S = 0.1
_PAGE = os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def switch(link: Path, folder: Path) -> None:
    """Let `link` lead to `folder`, in one step."""
    beside = link.with_name(link.name + ".new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(folder.resolve())
    beside.replace(link)


def require_bundle(folder: Path) -> Path:
    """`folder` if it looks like a bundle; ends the program otherwise."""
    if not (folder / MANIFEST).is_file():
        sys.exit(f"{folder}: no {MANIFEST}; `smallm export-onnx` writes a bundle")
    return folder.resolve()


class Server:
    """Restarted whenever it ends, until `close`. `exits` are its exit statuses so far."""

    def __init__(self, bundle: Path, log: Path, *flags: str, environment: Mapping[str, str] | None = None) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._command = [sys.executable, "-m", "smallm.cli", "serve", str(bundle), "--listen", self.address, *flags]
        self._environment = {**os.environ, **(environment or {})}
        self._log, self._closing = log, False
        self.exits: list[int] = []
        self.process = self._start()
        self._supervisor = asyncio.create_task(self._supervise())

    async def close(self) -> int:
        """Stop it with SIGTERM; its exit status."""
        self._closing = True
        self.signal(signal.SIGTERM)
        await self._supervisor
        return self.exits[-1]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def serving(self, timeout_s: float = 60.0) -> float:
        """Seconds until health says SERVING."""
        begin = time.monotonic()
        while time.monotonic() - begin < timeout_s:
            # A channel of its own each time: an old one would still be waiting to connect again.
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(self.address, options=options) as channel:
                try:
                    check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
                    if (await check).status == health_pb2.HealthCheckResponse.SERVING:
                        return time.monotonic() - begin
                except grpc.aio.AioRpcError:
                    pass
            await asyncio.sleep(0.02)
        raise TimeoutError(f"not serving after {timeout_s:.0f} s; see {self._log}")

    def usage(self) -> tuple[float, int, int]:
        """Resident MB, open file descriptors, threads."""
        folder = Path(f"/proc/{self.process.pid}")
        resident = int((folder / "statm").read_text().split()[1]) * _PAGE
        return resident / 1e6, len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir()))

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)

    async def _supervise(self) -> None:
        while True:
            while (status := self.process.poll()) is None:
                await asyncio.sleep(0.02)
            self.exits.append(status)
            if self._closing:
                return
            await asyncio.sleep(RESTART_S)
            self.process = self._start()
