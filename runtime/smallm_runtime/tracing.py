"""OpenTelemetry spans of calls; a part of their callers' traces (W3C traceparent). The `otel` extra."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smallm import __version__
from smallm.errors import MissingExtraError
from smallm_runtime.logs import Call


class Tracing:
    """An observer of calls. A span's attributes are those of the log's line: no text, no token."""

    def __init__(self, provider: Any) -> None:
        """`provider` is an opentelemetry TracerProvider."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = provider.get_tracer("smallm", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._spans: dict[int, Any] = {}

    def begun(self, call: Call, metadata: Any) -> None:
        """Start the span."""
        from opentelemetry.trace import SpanKind

        carrier = {name: value for name, value in metadata if isinstance(value, str)}
        service, _, method = call.method.lstrip("/").partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method, "smallm.request_id": call.id}
        self._spans[id(call)] = self._tracer.start_span(
            call.method.lstrip("/"), self._propagator.extract(carrier), SpanKind.SERVER, attributes
        )

    def ended(self, call: Call, method: str, code: str, seconds: float) -> None:
        """End it."""
        from opentelemetry.trace import Status, StatusCode

        span = self._spans.pop(id(call))
        span.set_attribute("rpc.grpc.status_code", code)
        if call.caller:
            span.set_attribute("smallm.caller", call.caller)
        if call.reason:
            span.set_attribute("smallm.reason", call.reason)
        if code in ("INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE", "UNIMPLEMENTED", "DEADLINE_EXCEEDED"):
            span.set_status(Status(StatusCode.ERROR))  # what OpenTelemetry counts as a server's fault
        span.end()


def open_tracing(address: str) -> tuple[Tracing, Callable[[], None]]:
    """Spans sent to an OTLP collector in the background, and what ends that. Raises MissingExtraError."""
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"otel needs {error.name}, not installed: pip install 'smallm[otel]'") from None
    provider = TracerProvider(resource=Resource.create({"service.name": "smallm", "service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(address, insecure=address.startswith("http://"))))
    return Tracing(provider), provider.shutdown
