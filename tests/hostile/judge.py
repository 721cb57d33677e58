"""Sends hostile requests and judges what comes back: the right status and reason, in time, and nothing let out."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from tests.hostile.requests import CANARY, Hostile

_OWN = "Internal error from Core"  # of grpc's asyncio client, when it still sends to a call that was refused
_AGAIN = 20
LEAKS = re.compile(
    rf"Traceback|File \"|\.py\b|site-packages|/(?:home|root|tmp|usr|opt|var|work|etc/(?!passwd))/?|{CANARY}"
    r"|0x[0-9a-f]{8,}|google\.protobuf|Exception|Error:"
)


@dataclass
class Verdict:
    """Calls by kind and outcome, and what was wrong."""

    outcomes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


async def judge(address: str, hostile: Iterable[Hostile], parallel: int = 16) -> Verdict:
    """Send all of them, some at a time."""
    verdict, source = Verdict(), iter(hostile)
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options) as channel:

        async def work() -> None:
            for one in source:
                await _judge_one(channel, one, verdict)

        await asyncio.gather(*(work() for _ in range(parallel)))
    return verdict


async def _judge_one(channel: grpc.aio.Channel, one: Hostile, verdict: Verdict) -> None:
    begin = time.monotonic()
    try:
        code, reason, told = await _call(channel, one)
    except Exception as error:  # grpc's client itself would not send it
        code, reason, told = "UNSENT", type(error).__name__, ""
    took = time.monotonic() - begin
    verdict.slowest_s = max(verdict.slowest_s, took)
    verdict.outcomes[one.kind, code, reason] += 1
    if code != "UNSENT" and (code, reason) not in one.right:
        sizes = [len(message) for message in one.messages[:4]]
        start = one.messages[0][:60] if one.messages else b""
        verdict.wrong.append(f"{one.kind}: {one.method[:80]} {sizes} {start!r}: {code} {reason}, not {set(one.right)}")
    if leak := LEAKS.search(told):
        verdict.wrong.append(f"{one.kind}: lets out {leak[0]!r} in {told[:200]!r}")


async def _call(channel: grpc.aio.Channel, one: Hostile) -> tuple[str, str, str]:
    """Code, reason and everything that was said in words."""
    for _ in range(_AGAIN):
        code, reason, told = await _call_once(channel, one)
        if not (code == "INTERNAL" and _OWN in told):
            break
    return code, reason, told


async def _call_once(channel: grpc.aio.Channel, one: Hostile) -> tuple[str, str, str]:
    call: Any
    if len(one.messages) == 1:
        call = channel.unary_stream(one.method, None, None)(
            one.messages[0], metadata=one.metadata, timeout=one.timeout_s
        )
    else:
        several = _each(one.messages)
        call = channel.stream_stream(one.method, None, None)(several, metadata=one.metadata, timeout=one.timeout_s)
    try:
        async for _ in call:
            if one.cancel:
                call.cancel()
        told = str(await call.trailing_metadata())
    except grpc.aio.AioRpcError as error:
        return error.code().name, _reason(error.trailing_metadata()), f"{error.details()} {error.trailing_metadata()}"
    except asyncio.CancelledError:
        return "CANCELLED", "", ""
    return "OK", "", told


async def _each(messages: tuple[bytes, ...]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def _reason(trailers: Any) -> str:
    for name, value in trailers or ():
        if name == "grpc-status-details-bin":
            status, info = Status.FromString(value), error_details_pb2.ErrorInfo()
            return info.reason if status.details and status.details[0].Unpack(info) else ""
    return ""
