"""What lies between the network and the services: address, encryption, access, limits, log, metrics, traces."""

from __future__ import annotations

import contextlib
from typing import Any

import grpc

from smallm.llm.bridge import Bridge
from smallm_runtime.access import Access
from smallm_runtime.calls import CallInterceptor, Observer
from smallm_runtime.credentials import ServerTls
from smallm_runtime.interceptor import ErrorInterceptor
from smallm_runtime.lifecycle import Lifecycle
from smallm_runtime.metrics import ServerMetrics, serve_metrics
from smallm_runtime.settings import Settings
from smallm_runtime.tracing import open_tracing

_KEEPALIVE_MS = 60_000  # a peer that is gone without a word is noticed
_PING_MS = 10_000  # clients may ask as often whether we are there


class Edge:
    """Made of settings, before anything is listened to. `stack` ends what has to be ended."""

    def __init__(self, settings: Settings, stack: contextlib.AsyncExitStack) -> None:
        """Raises ArtifactError, DataError or MissingExtraError for what cannot be used."""
        self._settings, self._stack = settings, stack
        self.metrics = ServerMetrics()
        self.tls = ServerTls(settings.tls) if settings.tls.certificate else None
        observers: list[Observer] = [self.metrics]
        if settings.otel:
            tracing, stop = open_tracing(settings.otel)
            stack.callback(stop)
            observers.append(tracing)
        self.calls = CallInterceptor(Access(settings), settings.limits, tuple(observers), settings.log.calls)

    def server(self) -> grpc.aio.Server:
        """A server without services."""
        return grpc.aio.server(interceptors=[self.calls, ErrorInterceptor()], options=options(self._settings))

    def watch(self, lifecycle: Lifecycle, bridge: Bridge) -> None:
        """Let metrics be collected. Raises ArtifactError if their address cannot be listened on."""
        self.metrics.watch(lifecycle, self.calls.running, self.tls)
        if self._settings.metrics:
            registries = self.metrics.registry, bridge.metrics.registry
            self._stack.callback(serve_metrics(self._settings.metrics, *registries))


def options(settings: Settings) -> list[tuple[str, Any]]:
    """gRPC channel arguments."""
    limits = settings.limits
    return [
        # Without this a second server on the same port starts quietly and takes half of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_concurrent_streams", limits.connection_calls),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.server_handshake_timeout_ms", int(1000 * limits.handshake_s)),
        ("grpc.max_connection_idle_ms", int(1000 * limits.idle_s)),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _PING_MS),
    ]
