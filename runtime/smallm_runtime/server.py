"""The composition root: settings to credentials, interceptors, services and their life, in the right order."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import grpc

from smallm.admin.v1 import admin_pb2, admin_pb2_grpc
from smallm.errors import ArtifactError, EngineFailedError, SmallmError, StoreError
from smallm.llm.bridge import Bridge
from smallm.llm.late_store import LateStore
from smallm.llm.settings import BridgeSettings
from smallm.llm.store import AnswerStore, open_store
from smallm.ner.v1 import ner_pb2, ner_pb2_grpc
from smallm_runtime import health, kserve
from smallm_runtime.admin import AdminService
from smallm_runtime.credentials import ServerTls
from smallm_runtime.describing import enable_reflection
from smallm_runtime.edge import Edge
from smallm_runtime.health import Health
from smallm_runtime.lifecycle import CLOSE_S, Lifecycle, State
from smallm_runtime.metrics import ServerMetrics
from smallm_runtime.recognition import Recognition
from smallm_runtime.service import NerService
from smallm_runtime.settings import Settings, is_local
from smallm_runtime.versions import Versions

__all__ = ["SERVICE", "Settings", "running", "serve"]
_log = logging.getLogger(__name__)
MARGIN_S = CLOSE_S + 10.0  # after running calls: for what is queued, the LLM bridge and its store
SERVICE = ner_pb2.DESCRIPTOR.services_by_name["NerService"].full_name
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name


@dataclass(frozen=True)
class Parts:
    """What services are made of."""

    settings: Settings
    versions: Versions
    lifecycle: Lifecycle
    bridge: Bridge
    metrics: ServerMetrics


@dataclass(frozen=True)
class Service:
    """A service on offer: its full name, and how its servicer is made and registered."""

    name: str
    add: Callable[[Parts, grpc.aio.Server], None]


def _recognition(parts: Parts) -> Recognition:
    return Recognition(parts.bridge, parts.settings.limits, parts.metrics.text)


def _is_ready(parts: Parts) -> Callable[[], bool]:
    return lambda: parts.lifecycle.state is State.SERVING


SERVICES = [
    Service(
        SERVICE,
        lambda parts, server: ner_pb2_grpc.add_NerServiceServicer_to_server(
            NerService(parts.versions, _recognition(parts)), server
        ),
    ),
    Service(
        ADMIN,
        lambda parts, server: admin_pb2_grpc.add_AdminServiceServicer_to_server(AdminService(parts.lifecycle), server),
    ),
    Service(
        kserve.SERVICE,
        lambda parts, server: kserve.InferenceService(parts.versions, _recognition(parts), _is_ready(parts)).add_to(
            server
        ),
    ),
]


def bind(server: grpc.aio.Server, settings: Settings, tls: ServerTls | None) -> int:
    """Take the address; the port. Raises ArtifactError."""
    listen = settings.listen
    try:
        port = server.add_secure_port(listen, tls.credentials()) if tls else server.add_insecure_port(listen)
    except RuntimeError:
        port = 0
    if not port:
        raise ArtifactError(f"cannot listen on {listen}; is the port taken, or the address not of this machine?")
    if tls is None and not is_local(listen):
        _log.warning("%s is not encrypted: whoever shares the network reads texts and tokens", listen)
    return int(port)


@asynccontextmanager
async def running(settings: Settings, started: Callable[[Parts], None] | None = None) -> AsyncIterator[int]:
    """Serve inside the block; yields the port. Raises ArtifactError for a bad bundle, store or address.

    While bundles load, health is NOT_SERVING and calls are refused as UNAVAILABLE; `started` is told the parts
    when they have.
    """
    async with contextlib.AsyncExitStack() as stack:  # unwound from the last to the first
        edge = await asyncio.to_thread(Edge, settings, stack)
        bridge = await asyncio.to_thread(_open_bridge, settings.bridge)
        stack.push_async_callback(_close_bridge, bridge)
        names = [service.name for service in SERVICES]
        checks = Health(names)
        versions = Versions()
        lifecycle = Lifecycle(settings, versions, checks)
        parts = Parts(settings, versions, lifecycle, bridge, edge.metrics)
        server = edge.server()
        for service in SERVICES:
            service.add(parts, server)
        checks.add_to(server)
        if settings.reflection:
            enable_reflection(server, [*names, health.SERVICE])
        port = bind(server, settings, edge.tls)
        edge.watch(lifecycle, bridge)
        await checks.set(False)
        await server.start()
        stack.push_async_callback(lifecycle.stop, server)
        await lifecycle.start()
        if started is not None:
            started(parts)
        yield port


async def serve(settings: Settings, ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads. `ready` is told the port.

    Raises EngineFailedError if the engine cannot be recovered. Whatever hangs, the process ends soon after that.
    """
    loop = asyncio.get_running_loop()
    stop, lifecycles = asyncio.Event(), list[Lifecycle]()

    def reload() -> None:  # before the first load has ended there is nothing to reload
        for lifecycle in lifecycles:
            lifecycle.spawn(_reload(lifecycle))

    for number, action in ((signal.SIGTERM, stop.set), (signal.SIGINT, stop.set), (signal.SIGHUP, reload)):
        with contextlib.suppress(NotImplementedError):  # not on Windows
            loop.add_signal_handler(number, action)
    async with running(settings, lambda parts: lifecycles.append(parts.lifecycle)) as port:
        ready(port)
        failed = lifecycles[0].failed
        waits = [asyncio.create_task(event.wait()) for event in (stop, failed)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        _end_anyway(settings.notice_s + settings.grace_s + MARGIN_S)
        _log.info("stopping: finishing running calls for up to %.0f s", settings.grace_s)
    if failed.is_set():
        raise EngineFailedError("the engine failed and could not be recovered; the log says how")


def _end_anyway(after_s: float) -> None:
    """A thread that hangs in the engine, or on a disk, cannot be ended and would keep the process."""

    def end() -> None:
        _log.error("something hangs; ending all the same")
        logging.shutdown()
        os._exit(1)

    timer = threading.Timer(after_s, end)
    timer.daemon = True
    timer.start()


async def _reload(lifecycle: Lifecycle) -> None:
    with contextlib.suppress(SmallmError):  # it is in the log
        await lifecycle.reload()


def _open_bridge(settings: BridgeSettings) -> Bridge:
    """Raises ArtifactError for what is no store; one that cannot be used now is tried again later."""
    try:
        return Bridge(settings)
    except StoreError as error:
        _log.error("going on without remembered answers for the time being: %s", error)
        open_ = functools.partial(open_store, settings.store, settings.memory.max_megabytes << 20)
        return Bridge(settings, cast(AnswerStore, LateStore(open_)))


async def _close_bridge(bridge: Bridge) -> None:
    await bridge.close()
    _log.info("the LLM was needed for %s", bridge.metrics.share_asked())
