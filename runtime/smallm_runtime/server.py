"""Life of the server: load, serve, drain, stop, in that order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from smallm.errors import ArtifactError
from smallm.llm.bridge import Bridge
from smallm.llm.settings import BridgeSettings
from smallm.ner.v1 import ner_pb2, ner_pb2_grpc
from smallm_runtime.batcher import Batcher
from smallm_runtime.engine import Engine, Item
from smallm_runtime.interceptor import ErrorInterceptor
from smallm_runtime.metrics import serve_metrics
from smallm_runtime.service import NerService

_log = logging.getLogger(__name__)
SERVICE = ner_pb2.DESCRIPTOR.services_by_name["NerService"].full_name
GRACE_S = 10.0  # for calls that are running at shutdown
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True)
class Settings:
    """What `smallm serve` was told. `threads` None takes what the container may use."""

    bundle: Path
    listen: str = "127.0.0.1:50051"
    threads: int | None = None
    device: str = "cpu"
    metrics: str = ""  # HOST:PORT for Prometheus
    bridge: BridgeSettings = BridgeSettings()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[int]:
    """Serve inside the block; yields the port. Raises ArtifactError for a bad bundle, store or address."""
    engine = await asyncio.to_thread(Engine.load, settings.bundle, settings.threads, settings.device)
    await asyncio.to_thread(_warm_up, engine)
    bridge = await asyncio.to_thread(Bridge, settings.bridge)
    batcher = Batcher(engine.run)
    # Without this a second server on the same port starts quietly and takes half of the calls.
    server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=[("grpc.so_reuseport", 0)])
    ner_pb2_grpc.add_NerServiceServicer_to_server(NerService(engine, batcher, bridge), server)
    checks = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    port = _bind(server, settings.listen)
    stop_metrics = serve_metrics(settings.metrics, bridge.metrics) if settings.metrics else None
    await _set_health(checks, _NOT_SERVING)  # grpc's servicer starts as SERVING
    await server.start()
    batcher.start()
    await _set_health(checks, _SERVING)
    try:
        yield port
    finally:
        await _set_health(checks, _NOT_SERVING)
        await server.stop(GRACE_S)
        await batcher.close()
        await bridge.close()
        if stop_metrics is not None:
            stop_metrics()
        _log.info("the LLM was needed for %s", bridge.metrics.share_asked())


async def serve(settings: Settings, ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is told the port."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # not on Windows
            loop.add_signal_handler(number, stop.set)
    async with running(settings) as port:
        ready(port)
        await stop.wait()
        _log.info("stopping: finishing running calls for up to %.0f s", GRACE_S)


def _warm_up(engine: Engine) -> None:
    """First runs are slow: of the graphs, and of the prompt's template."""
    engine.recognize([Item("预热", name) for name in engine.domains])
    for name in engine.domains:
        prompt = engine.prompt(name)
        if prompt is not None:
            prompt.messages("预热")


def _bind(server: grpc.aio.Server, address: str) -> int:
    try:
        port = int(server.add_insecure_port(address))
    except RuntimeError:
        port = 0
    if not port:
        raise ArtifactError(f"cannot listen on {address}; is the port taken, or the address not of this machine?")
    return port


async def _set_health(checks: Any, status: int) -> None:
    for name in ("", SERVICE):
        await checks.set(name, status)
