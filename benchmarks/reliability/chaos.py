"""Chaos: one fault after another under a steady load, and what it did to the requests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from process import Server, require_bundle, switch
from traffic import CACHED, NO_REASON, OFF, WAIT, Load, Record, outcomes, percentile, row
from truth import Truth

from smallm.admin.v1 import admin_pb2, admin_pb2_grpc
from tests.fake_llm import FakeLLM, Fault

MIX = (OFF,) * 50 + (CACHED,) * 48 + (WAIT,) * 2  # every text is new: a WAIT is a call to the LLM
LIES = ('[{"W": "并不存在的设备", "L": "EQUIP"}]', '[{"W": "漏", "L": "EQUIP"}]', "[]")
TIMEOUT_S, PATIENCE_S = 3.0, 20.0
_FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


@dataclass
class Bench:
    """What faults are done to."""

    server: Server
    llm: FakeLLM
    folder: Path
    link: Path
    bundles: tuple[Path, Path]
    store: Path
    turn: int = 0

    def next_bundle(self) -> None:
        """Switch the link to the other bundle."""
        self.turn = 1 - self.turn
        switch(self.link, self.bundles[self.turn])

    async def reload(self) -> str:
        """Ask for a reload; OK or the refusal's code."""
        async with grpc.aio.insecure_channel(self.server.address) as channel:
            try:
                await admin_pb2_grpc.AdminServiceStub(channel).Reload(admin_pb2.ReloadRequest(), timeout=30)
            except grpc.aio.AioRpcError as error:
                return error.code().name
        return "OK"


Fault_ = Callable[[Bench, float], Awaitable[str]]


async def _nothing(bench: Bench, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return ""


async def _killed(bench: Bench, seconds: float) -> str:
    bench.server.signal(signal.SIGKILL)
    await asyncio.sleep(0.1)
    took = await bench.server.serving()
    await asyncio.sleep(seconds)
    return f"serving again after {took + 0.1:.1f} s"


async def _stopped(bench: Bench, seconds: float) -> str:
    begin, ended = time.monotonic(), len(bench.server.exits)
    bench.server.signal(signal.SIGTERM)
    while len(bench.server.exits) == ended:
        await asyncio.sleep(0.02)
    status, took = bench.server.exits[-1], time.monotonic() - begin
    again = await bench.server.serving()
    await asyncio.sleep(seconds)
    return f"ended with {status} after {took:.1f} s, serving again {again:.1f} s later"


async def _reloads(bench: Bench, seconds: float) -> str:
    results, slowest = [], 0.0
    for _ in range(4):
        bench.next_bundle()
        begin = time.monotonic()
        results.append(await bench.reload())
        slowest = max(slowest, time.monotonic() - begin)
        await asyncio.sleep(max(0.0, 5 - (time.monotonic() - begin)))
    return f"{results.count('OK')} of {len(results)} reloads, the slowest {slowest:.1f} s"


async def _bad_bundle(bench: Bench, seconds: float) -> str:
    bad = bench.folder / "bad"
    shutil.copytree(bench.bundles[0], bad)
    with (bad / "encoder.int8.onnx").open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) // 2)
    switch(bench.link, bad)
    result = await bench.reload()
    switch(bench.link, bench.bundles[bench.turn])
    await asyncio.sleep(seconds)
    return f"reload refused: {result}"


def _llm(fault: Fault) -> Fault_:
    async def harm(bench: Bench, seconds: float) -> str:
        await asyncio.to_thread(bench.llm.script, fault)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(bench.llm.script, Fault())
        return ""

    return harm


async def _lies(bench: Bench, seconds: float) -> str:
    for lie in LIES:
        await asyncio.to_thread(bench.llm.script, Fault(content=lie))
        await asyncio.sleep(seconds / len(LIES))
    await asyncio.to_thread(bench.llm.script, Fault())
    return ""


async def _locked(bench: Bench, seconds: float) -> str:
    other = sqlite3.connect(bench.store, isolation_level=None, timeout=5)
    other.execute("BEGIN EXCLUSIVE")
    await asyncio.sleep(seconds)
    other.execute("ROLLBACK")
    other.close()
    return ""


async def _deleted(bench: Bench, seconds: float) -> str:
    for file in bench.store.parent.glob(bench.store.name + "*"):
        file.unlink()
    await asyncio.sleep(seconds)
    return ""


async def _full(bench: Bench, seconds: float) -> str:
    filler = bench.store.parent / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    await asyncio.sleep(seconds)
    note = await _killed(bench, 1.0)  # and it starts with a full disk
    filler.unlink()
    return note


async def _read_only(bench: Bench, seconds: float) -> str:
    for file in bench.store.parent.glob(bench.store.name + "*"):
        subprocess.run(["chattr", "+i", file], check=True)
    await asyncio.sleep(seconds)
    for file in bench.store.parent.glob(bench.store.name + "*"):
        subprocess.run(["chattr", "-i", file], check=True)
    return ""


def _clock(offset: str) -> Fault_:
    async def harm(bench: Bench, seconds: float) -> str:
        (bench.folder / "clock").write_text(offset)
        await asyncio.sleep(seconds)
        return ""

    return harm


FAULTS: dict[str, Fault_] = {
    "none": _nothing,
    "kill -9, restarted": _killed,
    "SIGTERM, restarted": _stopped,
    "reload every 5 s": _reloads,
    "reload of a truncated bundle": _bad_bundle,
    "LLM answers 503": _llm(Fault(status=503, body="{}")),
    "LLM drops connections": _llm(Fault(drop=True)),
    "LLM hangs": _llm(Fault(delay_s=60)),
    "LLM lies": _lies,
    "store locked by another process": _locked,
    "store cannot be written": _read_only,
    "store's disk full, kill -9": _full,
    "store deleted": _deleted,
    "clock a day ahead": _clock("+1d"),
    "clock ten years back": _clock("-3650d"),
    "none, afterwards": _nothing,
}


async def run(bundles: tuple[Path, Path], folder: Path, seconds: float, share: float, only: str) -> bool:
    """Print a table; whether nothing was lost or wrong. `share` of capacity is the load."""
    shifts = only == "clock"  # libfaketime slows every look at the clock down, so these have a run of their own
    if shifts and _FAKETIME is None:
        sys.exit("shifting the clock needs libfaketime (Debian's package `faketime`)")
    chosen = {name: fault for name, fault in FAULTS.items() if only in name and shifts == name.startswith("clock")}
    async with _bench(bundles, folder, shifts) as bench:
        load = Load(bench.server.address, 8, MIX, TIMEOUT_S, PATIENCE_S)
        local = Load(bench.server.address, 8, (OFF,))
        capacity = await local.capacity(8)
        await local.close()
        print(f"capacity {capacity:.0f} texts/s, load {share * capacity:.0f}/s\n", flush=True)
        print(row("fault", "requests", "first answer p50 / p99 ms", "refused on the way", "in the end", "note"))
        print(row(*["---"] * 6), flush=True)
        parts: list[tuple[str, list[Record]]] = []
        for name, fault in chosen.items():
            load.records = []
            steady = asyncio.create_task(load.open_loop(share * capacity, 3600))
            note = await fault(bench, seconds)
            steady.cancel()
            await load.settle()
            parts.append((name, load.records))
            print(_row(name, load.records, note), flush=True)
        await load.close()
        status = await bench.server.close()
    truth = Truth(bundles, LIES)
    records = [record for _, part in parts for record in part]
    wrong = {name: len(truth.wrong(part)) for name, part in parts}
    late = [one for one in records if one.code == "DEADLINE_EXCEEDED"]
    lost = [one for one in records if one.code not in ("OK", "DEADLINE_EXCEEDED") and one.reason == NO_REASON]
    print(f"\n{outcomes(records)}; in all {len(records)}")
    print(f"lost without a reason: {len(lost)}; past their deadline: {len(late)}; answered wrongly: {wrong}")
    print(f"exit statuses {bench.server.exits}, at the end {status}")
    return not lost and not any(wrong.values()) and status == 0


def _row(name: str, records: list[Record], note: str) -> str:
    refusals: dict[str, int] = {}
    for record in records:
        for reason in record.refusals:
            refusals[reason] = refusals.get(reason, 0) + 1
    broken = refusals.pop(NO_REASON, 0)
    on_the_way = ", ".join(
        [f"{count} {reason}" for reason, count in refusals.items()] + [f"{broken} broken"] * bool(broken)
    )
    times = f"{percentile(records, 0.5):.0f} / {percentile(records, 0.99):.0f}"
    return row(name, len(records), times, on_the_way or "-", outcomes(records), note)


@asynccontextmanager
async def _bench(bundles: tuple[Path, Path], folder: Path, shifts: bool) -> AsyncIterator[Bench]:
    folder.mkdir(parents=True, exist_ok=True)
    link, disk, clock = folder / "current", folder / "disk", folder / "clock"
    switch(link, require_bundle(bundles[0]))
    disk.mkdir(exist_ok=True)
    clock.write_text("+0")
    environment = {}
    if shifts:
        environment = {
            "LD_PRELOAD": str(_FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=False).returncode == 0
    if not mounted:
        sys.exit("a small disk has to be mounted, which needs root")
    try:
        with FakeLLM() as llm:
            flags = [
                "--answers",
                str(disk / "store.sqlite"),
                "--llm-url",
                llm.url,
                "--llm-model",
                "m",
            ]
            server = Server(link, folder / "server.log", *flags, environment=environment)
            await server.serving()
            yield Bench(server, llm, folder, link, bundles, disk / "store.sqlite")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
