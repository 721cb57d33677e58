"""`smallm serve` as a process: what its signals do under load. Longer, and with more faults: benchmarks/reliability."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from smallm_runtime.loading import fingerprint

from smallm.ner.v1 import ner_pb2, ner_pb2_grpc
from tests.runtime.bundles import switch, variant

CLIENTS = 20


@pytest.fixture
def server(bundle_folder: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    switch(tmp_path / "current", variant(bundle_folder, tmp_path / "v1", 1.0))
    command = [sys.executable, "-m", "smallm.cli", "serve", str(tmp_path / "current"), "--listen", "127.0.0.1:0"]
    log = (tmp_path / "log").open("w")  # a pipe that nobody reads would fill up and stop the server
    with log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().rpartition(" ")[2].strip()
        process.kill()


class Clients:
    """Ask again and again; `answers` are bundles in the order of the answers, `refusals` what ended a client."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = ner_pb2_grpc.NerServiceStub(self._channel)
        self.answers: list[str] = []
        self.refusals: list[grpc.aio.AioRpcError] = []
        self.tasks = [asyncio.create_task(self._ask(number)) for number in range(CLIENTS)]

    async def answered(self, count: int, bundle: str = "") -> None:
        """Wait for so many more answers, of any bundle or of this one."""
        goal = self._count(bundle) + count
        while self._count(bundle) < goal:
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        await asyncio.gather(*self.tasks)
        await self._channel.close(None)

    def _count(self, bundle: str) -> int:
        return self.answers.count(bundle) if bundle else len(self.answers)

    async def _ask(self, number: int) -> None:
        turn = 0
        while True:
            turn += 1
            request = ner_pb2.RecognizeRequest(text=f"{number}号泵漏油，单号{turn}")
            try:
                response: Any = await self._stub.Recognize(request, timeout=30)
            except grpc.aio.AioRpcError as error:
                self.refusals.append(error)
                return
            self.answers.append(response.provenance.bundle_sha256)


def test_a_hangup_reloads_and_a_termination_ends_under_load_without_a_lost_request(
    server: tuple[subprocess.Popen[str], str], bundle_folder: Path, tmp_path: Path
) -> None:
    process, address = server
    second = variant(bundle_folder, tmp_path / "v2", 3.0)

    async def go() -> None:
        clients = Clients(address)
        await clients.answered(50, fingerprint(tmp_path / "v1"))
        switch(tmp_path / "current", second)
        process.send_signal(signal.SIGHUP)
        await clients.answered(50, fingerprint(second))
        assert set(clients.answers[-CLIENTS:]) == {fingerprint(second)} and not clients.refusals
        process.send_signal(signal.SIGTERM)
        await clients.close()
        # Each client was answered until it was refused before anything was begun for it, and only then.
        assert {error.code() for error in clients.refusals} == {grpc.StatusCode.UNAVAILABLE}
        assert len(clients.refusals) == CLIENTS

    asyncio.run(asyncio.wait_for(go(), 60))
    process.wait(timeout=30)
    log = (tmp_path / "log").read_text()
    assert process.returncode == 0
    assert "CANCELLED" not in log and "INTERNAL" not in log  # no call that had begun was cut
