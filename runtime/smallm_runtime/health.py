"""What grpc.health.v1 says, for the server as a whole and for each service."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from smallm.errors import UnknownServiceError

SERVICE = health.SERVICE_NAME
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class _Servicer(health.aio.HealthServicer):  # type: ignore[misc, name-defined]
    """grpc's, but that an unknown service is an error like our others."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self._names = frozenset(names)

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        """See HealthServicer."""
        if request.service not in self._names:
            raise UnknownServiceError(request.service)
        return await super().Check(request, context)


class Health:
    """NOT_SERVING until told otherwise."""

    def __init__(self, services: Iterable[str]) -> None:
        self._names = ("", *services)
        self._servicer = _Servicer(self._names)
        self.serving = False

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the health service."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set(self, serving: bool) -> None:
        """Tell everybody. To be called once before the server starts: grpc's servicer begins as SERVING."""
        self.serving = serving
        for name in self._names:
            await self._servicer.set(name, _SERVING if serving else _NOT_SERVING)
