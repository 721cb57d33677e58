"""What a server counts, for Prometheus, beside what its bridge does. No label holds a text or a caller's word."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from smallm import __version__
from smallm.errors import ArtifactError
from smallm_runtime.batcher import Counts
from smallm_runtime.calls import Running
from smallm_runtime.credentials import ServerTls
from smallm_runtime.lifecycle import Lifecycle
from smallm_runtime.logs import Call
from smallm_runtime.versions import Version

_log = logging.getLogger(__name__)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128)


class Timings(Protocol):
    """The part of an answer that says where its time went."""

    total_us: int
    llm_us: int
    queue_us: int
    model_us: int
    batch_size: int


class ServerMetrics:
    """Counters of calls and texts. An observer of calls."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.calls = Counter("smallm_calls", "Calls by method and code", ["method", "code"], registry=self.registry)
        self.refusals = Counter("smallm_refusals", "Calls refused, by reason", ["reason"], registry=self.registry)
        self.seconds = Histogram(
            "smallm_call_seconds", "Calls from first to last byte", ["method"], registry=self.registry, buckets=_SECONDS
        )
        stages = Histogram(
            "smallm_text_seconds",
            "Texts by stage: llm, queue, model, total",
            ["stage"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._stages = {stage: stages.labels(stage) for stage in ("llm", "queue", "model", "total")}
        self.batches = Histogram(
            "smallm_text_batch_size", "Texts that shared a text's batch", registry=self.registry, buckets=_BATCH
        )

    def begun(self, call: Call, metadata: Any) -> None:
        """Nothing is counted yet."""

    def ended(self, call: Call, method: str, code: str, seconds: float) -> None:
        """Count a call."""
        self.calls.labels(method, code).inc()
        self.seconds.labels(method).observe(seconds)
        if call.reason:
            self.refusals.labels(call.reason).inc()

    def text(self, timings: Timings) -> None:
        """Count a text."""
        for stage, seconds in self._stages.items():
            seconds.observe(getattr(timings, f"{stage}_us") / 1e6)
        if timings.batch_size:
            self.batches.observe(timings.batch_size)

    def watch(self, lifecycle: Lifecycle, running: Running, tls: ServerTls | None) -> None:
        """Read these whenever somebody collects."""
        self.registry.register(_State(lifecycle, running, tls))


class _State(Collector):
    """What is so now, asked for at the moment of collection."""

    def __init__(self, lifecycle: Lifecycle, running: Running, tls: ServerTls | None) -> None:
        self._lifecycle, self._running, self._tls = lifecycle, running, tls

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        yield _gauge("smallm_calls_running", "Calls running", self._running.calls)
        yield _gauge("smallm_streams_open", "Streams open", self._running.streams)
        yield _gauge("smallm_threads", "Threads of the process", threading.active_count())
        info = GaugeMetricFamily("smallm_build_info", "This server", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield from self._bundles()
        if self._tls is not None:
            ends = self._tls.certificates.ends.timestamp()
            yield _gauge("smallm_certificate_seconds_left", "Until the server's certificate ends", ends - time.time())

    def _bundles(self) -> Iterator[Metric]:
        serving, draining = self._lifecycle.versions.serving, self._lifecycle.versions.draining
        info = GaugeMetricFamily("smallm_bundle_info", "Bundles loaded", labels=["name", "sha256", "variant", "state"])
        users = GaugeMetricFamily("smallm_bundle_requests", "Requests that use a bundle", labels=["sha256"])
        for version in (*serving, *draining):
            state = "draining" if version in draining else "current" if version is serving[0] else "beside"
            info.add_metric([version.name, version.fingerprint[:12], version.engine.variant, state], 1)
            users.add_metric([version.fingerprint[:12]], version.users)
        yield from (info, users)
        yield from _queues(serving)
        yield from _counts(self._lifecycle.counts)
        restarts = CounterMetricFamily("smallm_worker_restarts", "Engines replaced after a crash")
        restarts.add_metric([], self._lifecycle.worker_restarts)
        yield restarts


def _queues(versions: Iterable[Version]) -> Iterator[Metric]:
    batchers = [version.batcher for version in versions]
    queued = [batcher.queued for batcher in batchers]
    kept = [batcher.remembered for batcher in batchers]
    yield _gauge("smallm_queue_texts", "Texts that wait for the engine", sum(texts for texts, _ in queued))
    yield _gauge("smallm_queue_tokens", "Tokens that wait for the engine", sum(tokens for _, tokens in queued))
    yield _gauge("smallm_cache_answers", "Answers remembered", sum(count for count, _ in kept))
    yield _gauge("smallm_cache_bytes", "Memory of the answers remembered", sum(size for _, size in kept))


def _counts(counts: Counts) -> Iterator[Metric]:
    texts = CounterMetricFamily("smallm_texts", "Texts by what became of them", labels=["outcome"])
    for outcome in ("computed", "remembered", "joined", "refused", "expired", "cancelled", "failed"):
        texts.add_metric([outcome], getattr(counts, outcome))
    yield texts
    for name, text, value in (
        ("smallm_engine_rounds", "Rounds of the engine", counts.rounds),
        ("smallm_engine_tokens", "Tokens in them", counts.round_tokens),
        ("smallm_engine_seconds", "Time they took", counts.round_seconds),
    ):
        family = CounterMetricFamily(name, text)
        family.add_metric([], value)
        yield family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


class _Both(Collector):
    """Several registries as one."""

    def __init__(self, registries: Iterable[CollectorRegistry]) -> None:
        self._registries = list(registries)

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        for registry in self._registries:
            yield from registry.collect()


def serve_metrics(address: str, *registries: CollectorRegistry) -> Callable[[], None]:
    """Serve `registries` at HOST:PORT until what is returned is called. Raises ArtifactError if it cannot listen."""
    host, _, port = address.rpartition(":")
    together = CollectorRegistry()
    together.register(_Both(registries))
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), together)
    except OSError as error:
        raise ArtifactError(f"metrics = {address}: cannot listen ({error.strerror})") from None
    _log.info("metrics on http://%s:%d/metrics", host, server.server_port)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
