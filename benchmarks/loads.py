"""Load on a server: one call at a time, so many callers at once (closed), or calls at random times (open)."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from smallm.ner.v1 import ner_pb2

METHOD = "/smallm.ner.v1.NerService/Recognize"
CONNECTIONS = 16  # a server bounds the calls of one connection
_OWN = [("grpc.use_local_subchannel_pool", 1)]  # else all channels of a process share a connection
Call = Callable[..., Awaitable[bytes]]


@dataclass
class Run:
    """What a load met with: milliseconds of the calls answered, in ascending order, and counts by status code."""

    took_ms: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    refused_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    client_cpu_s: float = 0.0
    server_cpu_s: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.took_ms) / self.seconds if self.seconds else 0.0

    def rate_without_client(self, cpus: int) -> float:
        """Answers a second if the client's CPU time were the server's too: both share the machine's `cpus`."""
        return len(self.took_ms) / (self.seconds - self.client_cpu_s / cpus)

    def percentile(self, share: float) -> float:
        """Milliseconds within which `share` of the answers came."""
        return percentile(self.took_ms, share)

    def figures(self) -> dict[str, Any]:
        """For tables and JSON."""
        return {
            "p50_ms": round(self.percentile(0.5), 3),
            "p95_ms": round(self.percentile(0.95), 3),
            "p99_ms": round(self.percentile(0.99), 3),
            "per_s": round(self.rate, 1),
            "server_cpu_ms": round(1000 * self.server_cpu_s / max(1, len(self.took_ms)), 3),
            "answered": len(self.took_ms),
            "refused": sum(self.codes.values()) - self.codes["OK"],
            **{code: count for code, count in self.codes.items() if code != "OK"},
        }


def percentile(ascending: Sequence[float], share: float) -> float:
    """The value below which `share` of `ascending` lie; 0 for none."""
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))] if ascending else 0.0


def message(text: str, mode: str = "off") -> bytes:
    """A serialised request."""
    value = ner_pb2.LlmMode.Value(f"LLM_MODE_{mode.upper()}")
    return ner_pb2.RecognizeRequest(text=text, llm_mode=value).SerializeToString()


def sequential(address: str, messages: Sequence[bytes]) -> Run:
    """One call at a time through one blocking connection, as `smallm.client` does it."""
    run = Run()
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(METHOD, request_serializer=bytes, response_deserializer=bytes)
        call(messages[0], wait_for_ready=True)
        cpu, begin = time.process_time(), time.perf_counter()
        for one in messages:
            sent = time.perf_counter()
            call(one)
            run.took_ms.append(1000 * (time.perf_counter() - sent))
        run.seconds, run.client_cpu_s = time.perf_counter() - begin, time.process_time() - cpu
    run.codes["OK"] = len(messages)
    run.took_ms.sort()
    return run


def closed(address: str, messages: Sequence[bytes], callers: int) -> Run:
    """`callers` at once, each sends its next call when the last is answered."""

    async def load(calls: Sequence[Call], run: Run) -> None:
        waiting = iter(messages)

        async def caller(call: Call) -> None:
            for one in waiting:
                await _timed(call, one, None, run)

        await asyncio.gather(*(caller(calls[index % len(calls)]) for index in range(callers)))

    return asyncio.run(_run(address, messages[0], load))


def opened(address: str, messages: Sequence[bytes], rate: float, seconds: float, timeout_s: float | None = None) -> Run:
    """Calls at the times of a Poisson process of `rate` a second, whether or not the ones before are answered."""

    async def load(calls: Sequence[Call], run: Run) -> None:
        chance, begin = random.Random(0), time.perf_counter()
        sent: list[asyncio.Task[None]] = []
        due = chance.expovariate(rate)
        while due < seconds:
            await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
            call, one = calls[len(sent) % len(calls)], messages[len(sent) % len(messages)]
            sent.append(asyncio.create_task(_timed(call, one, timeout_s, run)))
            due += chance.expovariate(rate)
        await asyncio.gather(*sent)

    return asyncio.run(_run(address, messages[0], load))


async def _timed(call: Call, one: bytes, timeout_s: float | None, run: Run) -> None:
    sent = time.perf_counter()
    try:
        await call(one, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        run.codes[error.code().name] += 1
        run.refused_ms.append(1000 * (time.perf_counter() - sent))
        return
    run.codes["OK"] += 1
    run.took_ms.append(1000 * (time.perf_counter() - sent))


async def _run(address: str, first: bytes, load: Callable[[Sequence[Call], Run], Awaitable[None]]) -> Run:
    run = Run()
    channels = [grpc.aio.insecure_channel(address, options=_OWN) for _ in range(CONNECTIONS)]
    calls: list[Call] = [
        channel.unary_unary(METHOD, request_serializer=bytes, response_deserializer=bytes) for channel in channels
    ]
    for call in calls:
        await call(first, wait_for_ready=True)
    cpu, begin = time.process_time(), time.perf_counter()
    await load(calls, run)
    run.seconds, run.client_cpu_s = time.perf_counter() - begin, time.process_time() - cpu
    for channel in channels:
        await channel.close(None)
    run.took_ms.sort()
    run.refused_ms.sort()
    return run
