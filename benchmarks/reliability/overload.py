"""Overload: an open loop at a multiple of capacity. What is taken on must stay quick, the rest be refused at once."""

from __future__ import annotations

from pathlib import Path

from process import Server, require_bundle
from traffic import Load, Record, outcomes, percentile, row

DEADLINE_S = 1.0
REFUSED_MS = 50.0


async def run(bundle: Path, folder: Path, seconds: float, times: float) -> bool:
    """Print a table; whether p99 kept its bound. `times` is the load in capacities."""
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(require_bundle(bundle), folder / "server.log")
    await server.serving()
    load = Load(server.address, 8, timeout_s=DEADLINE_S)
    capacity = await load.capacity(8)
    print(f"capacity {capacity:.0f} texts/s; deadline {DEADLINE_S:g} s\n")
    print(row("load", "requests", "answered/s", "p50 ms", "p99 ms", "queue p99 ms", "refusals p50 / p99 ms", "outcome"))
    print(row(*["---"] * 8), flush=True)
    p99 = {}
    for name, rate in (("unloaded", 0.1), ("half", 0.5), ("overload", times)):
        load.records = []
        await load.open_loop(rate * capacity, seconds)
        p99[name] = percentile(load.records, 0.99)
        print(_row(f"{rate:g} x capacity", load.records, seconds), flush=True)
    await load.close()
    status = await server.close()
    bound = 2 * p99["unloaded"] + 1000 * DEADLINE_S
    print(f"\nbound: 2 x {p99['unloaded']:.0f} ms + the deadline = {bound:.0f} ms")
    return p99["overload"] <= bound and status == 0


def _row(name: str, records: list[Record], seconds: float) -> str:
    answered = [one for one in records if one.code == "OK"]
    refused = sorted(1000 * one.took for one in records if one.code != "OK")
    queue = sorted(one.response.timings.queue_us / 1000 for one in answered if one.response)
    refusals = f"{refused[len(refused) // 2]:.0f} / {refused[int(0.99 * len(refused))]:.0f}" if refused else "-"
    return row(
        name,
        len(records),
        f"{len(answered) / seconds:.0f}",
        f"{percentile(records, 0.5):.0f}",
        f"{percentile(records, 0.99):.0f}",
        f"{queue[int(0.99 * len(queue))]:.0f}" if queue else "-",
        refusals,
        outcomes(records),
    )
