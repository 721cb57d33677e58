"""Hostile requests against `smallm serve`, and hostile bundles against its reload: what came of each kind.

    python benchmarks/fuzz.py BUNDLE --requests 20000 --bundles 600

Exit status 1 if anything was wrong: a status or reason that is not right, a crash, a hang, something let out, another
answer to a good request than before.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from smallm.admin.v1 import admin_pb2, admin_pb2_grpc
from smallm.ner.v1 import ner_pb2, ner_pb2_grpc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.hostile import bundles, judge, requests  # noqa: E402
from tests.runtime.bundles import switch  # noqa: E402

GOOD = "3号循环泵机封漏油，更换M7N-65"
IN_LOG = re.compile(rf"Traceback|{requests.CANARY}|密语|internal error")
LISTEN = ["--listen", "127.0.0.1:0", *requests.LIMITS]
SHARE = 2000  # requests between two looks at the server


class Server:
    """`smallm serve` in a process of its own, its log in a file."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.log = folder / "log"
        command = [sys.executable, "-m", "smallm.cli", "serve", str(bundle), *LISTEN]
        self._handle = self.log.open("w")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._handle, text=True)
        assert self.process.stdout is not None
        said = self.process.stdout.readline().strip()
        if not said:
            raise SystemExit(f"the server did not start:\n{self.log.read_text()}")
        self.address = said.rpartition(" ")[2]

    def memory_mb(self) -> float:
        """Resident."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        status = self.process.wait(60)
        self._handle.close()
        return status


def main() -> int:
    """Run it; prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--bundles", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="smallm-fuzz-") as name:
        wrong = _run(args, Path(name))
    for told in wrong[:40]:
        print("WRONG", told)
    print(f"{len(wrong)} wrong")
    return 1 if wrong else 0


def _run(args: argparse.Namespace, folder: Path) -> list[str]:
    current, good = folder / "current", args.bundle.resolve()
    current.symlink_to(good)
    server = Server(current, folder)
    before, memory, begin = _answer(server.address), server.memory_mb(), time.monotonic()
    outcomes: Counter[tuple[str, str, str]] = Counter()
    wrong: list[str] = []
    slowest = 0.0
    for first in range(0, args.requests, SHARE):
        hostile = requests.requests(min(SHARE, args.requests - first), args.seed + first)
        verdict = asyncio.run(judge.judge(server.address, hostile))
        outcomes += verdict.outcomes
        wrong += verdict.wrong
        slowest = max(slowest, verdict.slowest_s)
        _sockets(server.address, random.Random(args.seed + first))
        if server.process.poll() is not None:
            return [*wrong, f"the server ended with {server.process.returncode}"]
        if _answer(server.address) != before:
            wrong.append("another answer to a good request than before")
        print(f"{first + SHARE} requests, {time.monotonic() - begin:.0f} s, {server.memory_mb():.0f} MB", flush=True)
    took = time.monotonic() - begin
    _table(outcomes)
    print(f"{sum(outcomes.values())} requests in {took:.0f} s, slowest {slowest:.1f} s, "
          f"resident {memory:.0f} MB before, {server.memory_mb():.0f} MB after")  # fmt: skip
    wrong += _bundles(args, server, current, good, folder, before)
    status = server.stop()
    if status:
        wrong.append(f"the server ended with {status}")
    text = server.log.read_text(encoding="utf-8", errors="replace")
    return wrong + [f"in the log: {text[max(0, m.start() - 80) : m.end() + 80]!r}" for m in IN_LOG.finditer(text)][:10]


def _bundles(
    args: argparse.Namespace, server: Server, current: Path, good: Path, folder: Path, before: bytes
) -> list[str]:
    """Every one is refused by a reload, and the good one goes on serving."""
    wrong: list[str] = []
    outcomes: Counter[tuple[str, str, str]] = Counter()
    with grpc.insecure_channel(server.address) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        for index in range(args.bundles):
            kind = list(bundles.KINDS)[index % len(bundles.KINDS)]
            harmed = bundles.harm(kind, good, folder / f"harmed{index}", args.seed + index)
            switch(current, harmed)
            try:
                stub.Reload(admin_pb2.ReloadRequest(), timeout=60)
                code, told = "OK", ""
            except grpc.RpcError as error:
                code, told = error.code().name, f"{error.details()} {error.trailing_metadata()}"
            outcomes[kind, code, ""] += 1
            if code != "FAILED_PRECONDITION":
                wrong.append(f"bundle, {kind} ({index}): {code} {told[:200]}")
            if leak := judge.LEAKS.search(told):
                wrong.append(f"bundle, {kind} ({index}): lets out {leak[0]!r}")
            if server.process.poll() is not None:
                return [*wrong, f"bundle, {kind} ({index}): the server ended with {server.process.returncode}"]
            subprocess.run(["rm", "-rf", str(harmed)], check=True)
        switch(current, good)
        stub.Reload(admin_pb2.ReloadRequest(), timeout=60)
    if _answer(server.address) != before:
        wrong.append("another answer after hostile bundles than before")
    _table(outcomes)
    return wrong


def _answer(address: str) -> bytes:
    """Entities and health of a good request."""
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        stub = ner_pb2_grpc.NerServiceStub(channel)
        found = stub.Recognize(ner_pb2.RecognizeRequest(text=GOOD, llm_mode=ner_pb2.LLM_MODE_OFF), timeout=30)
        entities = [entity.SerializeToString(deterministic=True) for entity in found.entities]
    return b"|".join([str(health.status).encode(), *entities])


def _sockets(address: str, source: random.Random) -> None:
    """What is no gRPC at all: noise, another protocol, half a greeting, silence."""
    host, _, port = address.rpartition(":")
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for content in (source.randbytes(500), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", preface[:9], b"",
                    preface + source.randbytes(300), preface + b"\xff\xff\xff\x04\x00\x00\x00\x00\x00"):  # fmt: skip
        with socket.create_connection((host, int(port)), timeout=5) as one:
            one.sendall(content)


def _table(outcomes: Counter[tuple[str, str, str]]) -> None:
    kinds = dict.fromkeys(kind for kind, _, _ in outcomes)
    print("| kind | calls | outcomes |\n|---|---|---|")
    for kind in kinds:
        mine = {f"{code} {reason}".strip(): n for (one, code, reason), n in outcomes.most_common() if one == kind}
        print(f"| {kind} | {sum(mine.values())} | {', '.join(f'{told} {n}' for told, n in mine.items())} |")


if __name__ == "__main__":
    sys.exit(main())
