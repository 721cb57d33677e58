"""Soak: a steady load for long. Memory, descriptors and threads must stay flat, and so must the last minute's p99."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from process import Server, require_bundle
from traffic import Load, Record, outcomes, percentile, row
from truth import Truth

SAMPLES = 20
RATIO, SLOPE_MB = 1.3, 10.0  # p99 of the end to the start's; growth after the first quarter


async def run(bundle: Path, folder: Path, requests: int, share: float) -> bool:
    """Print a table; whether it stayed flat and nothing was lost or wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(require_bundle(bundle), folder / "server.log")
    await server.serving()
    load = Load(server.address, 8, timeout_s=10.0)
    capacity = await load.capacity(8)
    rate = share * capacity
    seconds = requests / rate
    print(f"capacity {capacity:.0f} texts/s; {requests} requests at {rate:.0f}/s take {seconds:.0f} s\n")
    print(row("s", "resident MB", "descriptors", "threads", "p50 ms", "p99 ms"))
    print(row(*["---"] * 6), flush=True)
    steady = asyncio.create_task(load.open_loop(rate, seconds))
    begin, usages = time.monotonic(), []
    for sample in range(1, SAMPLES + 1):
        await asyncio.sleep(max(0.0, begin + sample * seconds / SAMPLES - time.monotonic()))
        usages.append(server.usage())
        part = _between(load.records, begin, (sample - 1) * seconds / SAMPLES, sample * seconds / SAMPLES)
        times = f"{percentile(part, 0.5):.1f}", f"{percentile(part, 0.99):.1f}"
        print(row(f"{time.monotonic() - begin:.0f}", f"{usages[-1][0]:.1f}", *usages[-1][1:], *times), flush=True)
    await steady
    minute = min(60.0, seconds / 4)
    first, last = (
        percentile(_between(load.records, begin, start, start + minute), 0.99) for start in (0.0, seconds - minute)
    )
    quarter = usages[SAMPLES // 4 :]
    growth = quarter[-1][0] - quarter[0][0]
    wrong = len(Truth([bundle]).wrong(load.records))
    await load.close()
    status = await server.close()
    print(f"\n{outcomes(load.records)}; answered wrongly: {wrong}; exit status {status}")
    print(f"p99 of the first {minute:.0f} s {first:.1f} ms, of the last {last:.1f} ms: ratio {last / first:.2f}")
    slope = 1e5 * growth / (0.75 * requests)
    print(f"resident memory after the first quarter {growth:+.1f} MB: {slope:+.1f} MB for 100,000 requests")
    flat = all(len({usage[index] for usage in quarter}) <= 2 for index in (1, 2))  # a connection may come and go
    answered = all(one.code == "OK" for one in load.records)
    return answered and not wrong and flat and last <= RATIO * first and growth <= SLOPE_MB and status == 0


def _between(records: list[Record], begin: float, start: float, end: float) -> list[Record]:
    return [one for one in records if start <= one.sent - begin < end]
