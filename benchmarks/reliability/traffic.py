"""Load: texts that never repeat, open or closed loop, every outcome on record."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from smallm.formats import read_documents
from smallm.ner.v1 import ner_pb2, ner_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
SENTENCES = [document.text for document in read_documents(ROOT / "examples" / "work_orders" / "train.jsonl")]
OFF, CACHED, WAIT = ner_pb2.LLM_MODE_OFF, ner_pb2.LLM_MODE_CACHED_ONLY, ner_pb2.LLM_MODE_WAIT
NO_REASON = "no reason"  # the connection broke, or nobody listened
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # channels share no connection
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
]


@dataclass
class Record:
    """A request's fate. `code` is OK or the last refusal's; `refusals` are all reasons on the way there."""

    text: str
    mode: ner_pb2.LlmMode.ValueType
    sent: float
    took: float = 0.0
    code: str = ""
    refusals: list[str] = field(default_factory=list)
    response: ner_pb2.RecognizeResponse | None = None

    @property
    def reason(self) -> str:
        """Of the last refusal."""
        return self.refusals[-1] if self.refusals else ""


class Load:
    """Clients of one server. `mix` are LLM modes to draw from. With `patience_s`, UNAVAILABLE is tried again."""

    def __init__(
        self,
        address: str,
        connections: int,
        mix: Sequence[ner_pb2.LlmMode.ValueType] = (OFF,),
        timeout_s: float = 5.0,
        patience_s: float = 0.0,
    ) -> None:
        self._channels = [grpc.aio.insecure_channel(address, options=_OPTIONS) for _ in range(connections)]
        self._stubs = itertools.cycle([ner_pb2_grpc.NerServiceStub(channel) for channel in self._channels])
        self._mix, self._timeout_s, self._patience_s = mix, timeout_s, patience_s
        self._random, self._number = random.Random(0), itertools.count()
        self._running: set[asyncio.Task[Record]] = set()
        self.records: list[Record] = []

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(channel.close(None) for channel in self._channels))

    async def capacity(self, seconds: float, concurrency: int = 48) -> float:
        """Texts per second that are answered when there is always one more; nothing is recorded."""
        kept, self.records = self.records, []
        await self.closed_loop(seconds, concurrency)
        found, self.records = sum(one.code == "OK" for one in self.records) / seconds, kept
        return found

    async def closed_loop(self, seconds: float, concurrency: int) -> None:
        """Each of `concurrency` clients asks again when it has its answer."""
        end = time.monotonic() + seconds

        async def client() -> None:
            while time.monotonic() < end:
                await asyncio.shield(self._begin())

        await asyncio.gather(*(client() for _ in range(concurrency)))

    async def open_loop(self, rate: float, seconds: float) -> None:
        """Poisson arrivals at `rate` a second, whatever becomes of those before. Returns when all have ended."""
        due = time.monotonic()
        end = due + seconds
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._begin()
            due += self._random.expovariate(rate)
        await self.settle()

    async def settle(self) -> None:
        """Wait for every request that was sent, also by a loop that was cancelled."""
        while self._running:
            await asyncio.wait(self._running)

    def _begin(self) -> asyncio.Task[Record]:
        task = asyncio.create_task(self.ask())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def text(self) -> str:
        """One to three sentences that were never sent before."""
        chosen = self._random.choices(SENTENCES, k=self._random.randint(1, 3))
        return f"{'。'.join(chosen)}，单号{next(self._number)}"

    async def ask(self) -> Record:
        """Send one text and put on record what becomes of it."""
        record = Record(self.text(), self._random.choice(self._mix), time.monotonic())
        request = ner_pb2.RecognizeRequest(text=record.text, llm_mode=record.mode)
        while True:
            try:
                record.response = await next(self._stubs).Recognize(request, timeout=self._timeout_s)
                record.code = "OK"
                break
            except grpc.aio.AioRpcError as error:
                record.code = error.code().name
                reason, retry_s = _told(error)
                record.refusals.append(reason)
                left_s = record.sent + self._patience_s - time.monotonic()
                if error.code() is not grpc.StatusCode.UNAVAILABLE or left_s <= 0:
                    break
                await asyncio.sleep(min(left_s, retry_s or 0.1))
        record.took = time.monotonic() - record.sent
        self.records.append(record)
        return record


def _told(error: grpc.aio.AioRpcError) -> tuple[str, float]:
    """Reason of a refusal and seconds to wait, 0 if it does not say."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    info, retry = ErrorInfo(), RetryInfo()
    for detail in status.details if status else ():
        detail.Unpack(info)
        detail.Unpack(retry)
    return info.reason or NO_REASON, retry.retry_delay.ToMilliseconds() / 1000


def percentile(records: Sequence[Record], share: float) -> float:
    """Milliseconds within which `share` of what was answered was; NaN for nothing."""
    took = sorted(1000 * one.took for one in records if one.code == "OK")
    return took[min(len(took) - 1, int(share * len(took)))] if took else float("nan")


def outcomes(records: Sequence[Record]) -> str:
    """How many were answered, and how many refused by code and reason."""
    refused = Counter(f"{one.code} {one.reason}" for one in records if one.code != "OK")
    parts = [f"{sum(one.code == 'OK' for one in records)} answered"]
    return ", ".join(parts + [f"{count} {name}" for name, count in refused.most_common()])


def row(*cells: Any) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(str(cell) for cell in cells)} |"
