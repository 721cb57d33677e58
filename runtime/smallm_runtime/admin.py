"""The operators' gRPC service: what serves, and reload it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from smallm import __version__
from smallm.admin.v1 import admin_pb2, admin_pb2_grpc
from smallm_runtime.lifecycle import Lifecycle, State
from smallm_runtime.versions import Version

_STATES = {
    State.LOADING: admin_pb2.SERVER_STATE_LOADING,
    State.SERVING: admin_pb2.SERVER_STATE_SERVING,
    State.RECOVERING: admin_pb2.SERVER_STATE_RECOVERING,
    State.STOPPING: admin_pb2.SERVER_STATE_STOPPING,
}
_CURRENT, _BESIDE = admin_pb2.VERSION_STATE_CURRENT, admin_pb2.VERSION_STATE_BESIDE


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """See proto/smallm/admin/v1/admin.proto."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle, self._started = lifecycle, datetime.now(UTC)

    async def Reload(self, request: admin_pb2.ReloadRequest, context: Any) -> admin_pb2.ReloadResponse:  # noqa: N802
        """Load what the paths lead to now, and swap."""
        changed = await self._lifecycle.reload()
        return admin_pb2.ReloadResponse(changed=changed, versions=self._serving())

    async def GetStatus(self, request: admin_pb2.GetStatusRequest, context: Any) -> admin_pb2.GetStatusResponse:  # noqa: N802
        """What the server is doing."""
        lifecycle, serving = self._lifecycle, self._serving()
        failed = lifecycle.failed_reload
        return admin_pb2.GetStatusResponse(
            state=_STATES[lifecycle.state],
            started=_timestamp(self._started),
            smallm_version=__version__,
            current=serving[0] if serving else None,
            failed_reload=admin_pb2.FailedReload(reason=failed.reason, time=_timestamp(failed.time))
            if failed
            else None,
            worker_restarts=lifecycle.worker_restarts,
        )

    async def ListVersions(  # noqa: N802
        self, request: admin_pb2.ListVersionsRequest, context: Any
    ) -> admin_pb2.ListVersionsResponse:
        """The bundles it holds."""
        draining = [_version(one, admin_pb2.VERSION_STATE_DRAINING) for one in self._lifecycle.versions.draining]
        return admin_pb2.ListVersionsResponse(versions=self._serving() + draining)

    def _serving(self) -> list[admin_pb2.Version]:
        versions = self._lifecycle.versions
        return [_version(one, _CURRENT if one is versions.current else _BESIDE) for one in versions.serving]


def _version(version: Version, state: admin_pb2.VersionState.ValueType) -> admin_pb2.Version:
    return admin_pb2.Version(
        name=version.name,
        fingerprint=version.fingerprint,
        state=state,
        requests=version.users,
        loaded=_timestamp(version.loaded),
        domains=version.engine.domains,
        variant=version.engine.variant,
    )


def _timestamp(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
