"""Drain: reloads and graceful stops while a hundred clients ask. None of them may lose a request."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import grpc
from process import Server, require_bundle, switch
from traffic import NO_REASON, Load, outcomes, percentile
from truth import Truth

from smallm.admin.v1 import admin_pb2, admin_pb2_grpc

CLIENTS = 100


async def run(bundles: tuple[Path, Path], folder: Path, reloads: int, stops: int) -> bool:
    """Print what happened; whether nothing was lost or wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "current"
    switch(link, require_bundle(bundles[0]))
    server = Server(link, folder / "server.log")
    await server.serving()
    truth = Truth(bundles)

    load = Load(server.address, CLIENTS, timeout_s=30.0)
    clients = asyncio.create_task(load.closed_loop(3600, CLIENTS))
    took = []
    async with grpc.aio.insecure_channel(server.address) as channel:
        for turn in range(1, reloads + 1):
            switch(link, bundles[turn % 2])
            begin = time.monotonic()
            reply = await admin_pb2_grpc.AdminServiceStub(channel).Reload(admin_pb2.ReloadRequest())
            took.append(time.monotonic() - begin)
            assert reply.changed
            await asyncio.sleep(0.2)
    clients.cancel()
    await load.settle()
    served = {one.response.provenance.bundle_sha256 for one in load.records if one.response}
    wrong = len(truth.wrong(load.records))
    print(
        f"{reloads} reloads (median {sorted(took)[reloads // 2]:.2f} s, slowest {max(took):.2f} s), {CLIENTS} clients:"
    )
    seen = f"bundles seen: {len(served)}; p99 {percentile(load.records, 0.99):.0f} ms"
    print(f"  {outcomes(load.records)}; wrong: {wrong}; {seen}")
    fine = not wrong and all(one.code == "OK" for one in load.records) and len(served) == 2
    await load.close()

    load = Load(server.address, CLIENTS, timeout_s=30.0, patience_s=60.0)
    clients = asyncio.create_task(load.closed_loop(3600, CLIENTS))
    ends, again = [], []
    for _ in range(stops):
        await asyncio.sleep(0.5)
        ended, begin = len(server.exits), time.monotonic()
        server.signal(signal.SIGTERM)
        while len(server.exits) == ended:
            await asyncio.sleep(0.01)
        ends.append(time.monotonic() - begin)
        again.append(await server.serving())
    await asyncio.sleep(0.5)
    clients.cancel()
    await load.settle()
    statuses = set(server.exits)
    reasons = [reason for one in load.records for reason in one.refusals]
    wrong = len(truth.wrong(load.records))
    print(f"{stops} graceful stops (slowest {max(ends):.2f} s; serving again after at most {max(again):.2f} s):")
    print(f"  {outcomes(load.records)}; wrong: {wrong}; exit statuses {statuses}")
    unheard = reasons.count(NO_REASON)
    print(f"  refused before being taken on, and asked again: {len(reasons)}, {unheard} of them by nobody listening")
    await load.close()
    status = await server.close()
    return fine and not wrong and all(one.code == "OK" for one in load.records) and statuses == {0} and status == 0
