"""The loaded bundles, and who is using which: an old one is closed when its last request is done."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from smallm.errors import StoppingError, UnavailableError, UnknownVersionError
from smallm_runtime.batcher import Batcher
from smallm_runtime.engine import Engine

VERSION_KEY = "smallm-bundle-version"  # request metadata: a version's name, or 8 or more digits of its fingerprint
SHORTEST_FINGERPRINT = 8
LOADING_RETRY_S = 1.0


@dataclass(eq=False)
class Version:
    """A bundle in use. `name` is its folder's, `fingerprint` the sha256 of its manifest; `users` are requests."""

    name: str
    fingerprint: str
    engine: Engine
    batcher: Batcher = field(init=False)  # another one after a crash
    loaded: datetime = field(default_factory=lambda: datetime.now(UTC))
    users: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)  # awaited once it is retired

    def called(self, name: str) -> bool:
        """Whether a caller means this one."""
        return name == self.name or (len(name) >= SHORTEST_FINGERPRINT and self.fingerprint.startswith(name))


class Versions:
    """The current version and those beside it. Belongs to one event loop."""

    def __init__(self) -> None:
        self._current: Version | None = None
        self._refusing, self.refused = False, 0
        self._beside: list[Version] = []
        self._retired: dict[Version, asyncio.Task[None]] = {}

    @property
    def current(self) -> Version | None:
        """The one for callers who ask for none."""
        return self._current

    @property
    def serving(self) -> list[Version]:
        """All that can be asked for, the current one first."""
        return ([self._current] if self._current else []) + self._beside

    @property
    def draining(self) -> list[Version]:
        """Those replaced that still have requests."""
        return list(self._retired)

    @contextmanager
    def use(self, name: str = "") -> Iterator[Version]:
        """A version for one request, kept loaded until the block ends; '' is the current one.

        Raises UnavailableError before the first is loaded and after `refuse`, UnknownVersionError.
        """
        if self._refusing:
            self.refused += 1
            raise StoppingError
        version = self._find(name)
        version.users += 1
        try:
            yield version
        finally:
            version.users -= 1
            if not version.users:
                version.unused.set()

    def swap(self, current: Version, beside: list[Version]) -> None:
        """Serve these from now on; those that are left out are closed when their last request is done."""
        kept = {current, *beside}
        gone = [version for version in self.serving if version not in kept]
        self._current, self._beside = current, beside
        for version in gone:
            self._retired[version] = asyncio.create_task(self._retire(version))

    def refuse(self) -> None:
        """Take on no more requests; `refused` counts those that come."""
        self._refusing = True

    async def close(self) -> None:
        """Finish what is queued, then close every version. For when no more requests come."""
        versions = self.serving
        self._current, self._beside = None, []
        retired = list(self._retired.values())
        await asyncio.gather(*(version.batcher.close() for version in versions), *retired)

    async def _retire(self, version: Version) -> None:
        while version.users:
            version.unused.clear()
            await version.unused.wait()
        await version.batcher.close()
        del self._retired[version]
        del version.batcher  # which knows its version: the sessions' memory must not wait for the garbage collector

    def _find(self, name: str) -> Version:
        if self._current is None:
            raise UnavailableError("LOADING", "no bundle is loaded yet", LOADING_RETRY_S)
        if not name:
            return self._current
        for version in self.serving:
            if version.called(name):
                return version
        raise UnknownVersionError(name, [version.name for version in self.serving])


def asked_version(context: Any) -> str:
    """The version that a call's metadata names; '' for none."""
    metadata: Mapping[str, str | bytes] = dict(context.invocation_metadata() or ())
    return str(metadata.get(VERSION_KEY, ""))
