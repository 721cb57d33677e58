"""The bridge's metrics over HTTP, for Prometheus to collect."""

from __future__ import annotations

import logging
from collections.abc import Callable

from prometheus_client import start_http_server

from smallm.errors import ArtifactError
from smallm.llm.metrics import Metrics

_log = logging.getLogger(__name__)


def serve_metrics(address: str, metrics: Metrics) -> Callable[[], None]:
    """Serve `metrics` at HOST:PORT until what is returned is called. Raises ArtifactError if it cannot listen."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ArtifactError(f"--metrics {address}: must be HOST:PORT")
    try:
        server, thread = start_http_server(int(port), host, metrics.registry)
    except OSError as error:
        raise ArtifactError(f"--metrics {address}: cannot listen ({error.strerror})") from None
    _log.info("metrics on http://%s:%d/metrics", host, server.server_port)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
