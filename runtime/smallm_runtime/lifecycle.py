"""From loading to draining: which bundle serves, and what health says about it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from smallm.errors import LoadError, SmallmError, UnavailableError
from smallm_runtime import loading
from smallm_runtime.batcher import Batcher
from smallm_runtime.health import Health
from smallm_runtime.settings import Settings
from smallm_runtime.versions import Version, Versions

_log = logging.getLogger(__name__)
CLOSE_S = 10.0  # for what is queued at a stop


@dataclass(frozen=True)
class Reloaded:
    """What serves after a reload, the current version first; `changed` is false if it did before."""

    versions: list[Version]
    changed: bool


class Lifecycle:
    """Loads, reloads and stops. One reload at a time; a failed one changes nothing."""

    def __init__(self, settings: Settings, versions: Versions, health: Health) -> None:
        self.versions, self.health = versions, health
        self._settings = settings
        self._lock = asyncio.Lock()
        self._stopping = False

    async def start(self) -> None:
        """Load what was asked for, then be healthy. Raises LoadError, and serves nothing."""
        await self.reload()
        await self.health.set(True)

    async def reload(self) -> Reloaded:
        """Load what the paths lead to now, then swap. Raises LoadError, and what served goes on serving."""
        async with self._lock:
            if self._stopping:
                raise UnavailableError("STOPPING", "the server is stopping", self._settings.grace_s)
            before = self.versions.serving
            fresh: list[Version] = []
            try:
                wanted = [await self._version(path, fresh) for path in (self._settings.bundle, *self._settings.beside)]
                _refuse_ambiguity(wanted)
            except SmallmError:
                await asyncio.gather(*(version.batcher.close() for version in fresh))
                raise
            self.versions.swap(wanted[0], wanted[1:])
        if fresh:
            _log.info("serving bundle %s", ", ".join(f"{one.name} {one.fingerprint[:12]}" for one in wanted))
        return Reloaded(wanted, wanted != before)

    async def stop(self) -> None:
        """After the last request: finish what is queued, for a while, and close what is loaded."""
        self._stopping = True
        async with self._lock:  # a reload that is running ends first
            try:
                await asyncio.wait_for(self.versions.close(), CLOSE_S)
            except TimeoutError:
                _log.error("a batch did not end within %.0f s; leaving it", CLOSE_S)

    async def _version(self, path: Path, fresh: list[Version]) -> Version:
        """The version at `path`: one that serves already if it is the same, else a new one, noted in `fresh`."""
        found = await asyncio.to_thread(loading.fingerprint, path)
        for version in (*self.versions.serving, *fresh):
            if version.fingerprint == found and version.name == path.resolve().name:
                return version
        loaded = await asyncio.to_thread(loading.load, path, self._settings.threads, self._settings.device)
        batcher = Batcher(loaded.engine.run)
        batcher.start()
        version = Version(loaded.name, loaded.fingerprint, loaded.engine, batcher)
        fresh.append(version)
        return version


def _refuse_ambiguity(versions: list[Version]) -> None:
    names = [version.name for version in versions]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise LoadError("NAME_TAKEN", f"two bundles are called {', '.join(sorted(twice))}; rename a folder")
