"""From loading to draining: which bundle serves, what health says about it, and in which order it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import grpc

from smallm.errors import LoadError, StoppingError
from smallm_runtime import loading
from smallm_runtime.admission import Limits
from smallm_runtime.batcher import Batcher, Counts
from smallm_runtime.health import Health
from smallm_runtime.sessions import release_memory
from smallm_runtime.settings import Settings
from smallm_runtime.versions import Version, Versions

_log = logging.getLogger(__name__)
T = TypeVar("T")
REFUSAL_S, REFUSALS = 0.1, 20  # calls are refused for as long as they come in, two seconds at most
CLOSE_S = 10.0  # for what is queued at a stop
CRASHES, CRASHES_S = 3, 600.0  # so many within such a time are no accident
PROBE_S = 30.0  # for a new worker's first answer


class State(StrEnum):
    """What the server is doing."""

    LOADING = "loading"
    SERVING = "serving"
    RECOVERING = "recovering"
    STOPPING = "stopping"


@dataclass(frozen=True)
class FailedReload:
    """`reason` is a LoadError's."""

    reason: str
    time: datetime = field(default_factory=lambda: datetime.now(UTC))


class Lifecycle:
    """Loads, reloads and stops. One reload at a time; a failed one changes nothing."""

    def __init__(self, settings: Settings, versions: Versions, health: Health) -> None:
        self.versions = versions
        self.failed_reload: FailedReload | None = None
        self.worker_restarts = 0
        self.counts = Counts()
        self.failed = asyncio.Event()  # nothing more can be done in this process
        self._crashes: deque[float] = deque(maxlen=CRASHES)
        self._settings, self._health = settings, health
        self._lock = asyncio.Lock()
        self._stopping = False
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def state(self) -> State:
        """As health tells it, and why."""
        if self._stopping:
            return State.STOPPING
        if self.versions.current is None:
            return State.LOADING
        return State.SERVING if self._health.serving else State.RECOVERING

    async def start(self) -> None:
        """Load what was asked for, then be healthy. Raises LoadError, and serves nothing."""
        await self._load_all()
        await self._health.set(True)

    async def reload(self) -> bool:
        """Load what the paths lead to now, then swap; whether that changed anything.

        Raises LoadError, and what served goes on serving. Goes on if its caller goes away.
        """
        return await asyncio.shield(self.spawn(self._reload()))

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that is not forgotten while it runs."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self, server: grpc.aio.Server) -> None:
        """Say so first, answer meanwhile, then end calls, what is queued, and the sessions; bounded in time.

        Those who watch health have moved away before a call is refused.
        """
        self._stopping = True
        await self._health.set(False)
        await asyncio.sleep(self._settings.notice_s)
        await self._refuse()
        await server.stop(self._settings.grace_s)
        async with self._lock:  # a reload that is running ends first
            try:
                await asyncio.wait_for(self.versions.close(), CLOSE_S)
            except TimeoutError:
                _log.error("a batch did not end within %.0f s; leaving it", CLOSE_S)

    async def _refuse(self) -> None:
        """Refuse with a reason until nobody comes any more, for grpc gives none to what comes while it closes."""
        self.versions.refuse()
        for _ in range(REFUSALS):
            before = self.versions.refused
            await asyncio.sleep(REFUSAL_S)
            if self.versions.refused == before:
                break

    async def _reload(self) -> bool:
        try:
            changed = await self._load_all()
        except LoadError as error:
            self.failed_reload = FailedReload(error.reason)
            _log.error("the reload failed, what served goes on serving: %s: %s", error.reason, error)
            raise
        self.failed_reload = None
        return changed

    async def _load_all(self) -> bool:
        async with self._lock:
            if self._stopping:
                raise StoppingError
            before, fresh = self.versions.serving, list[Version]()
            try:
                paths = (self._settings.bundle, *self._settings.beside)
                wanted = [await self._version(path, fresh) for path in paths]
                _refuse_ambiguity(wanted)
            except BaseException:
                await asyncio.gather(*(version.batcher.close() for version in fresh))
                raise
            self.versions.swap(wanted[0], wanted[1:])
        if fresh:
            _log.info("serving bundle %s", ", ".join(f"{one.name} {one.fingerprint[:12]}" for one in wanted))
        return wanted != before

    def _batcher(self, version: Version) -> Batcher:
        engine, told = version.engine, self._settings
        limits = Limits(
            round_tokens=engine.profile.round_tokens,
            parallel=engine.profile.parallel,
            queue_texts=told.limits.queue_texts,
            queue_tokens=told.limits.queue_tokens,
            cache_bytes=told.cache_mb << 20,
        )
        return Batcher(
            engine.step,
            limits,
            bundle_hash=version.fingerprint,
            counts=self.counts,
            crashed=lambda _: self.spawn(self._recover(version)),
            tidy=release_memory,
        )

    async def _recover(self, version: Version) -> None:
        """After a crash or a hang: say so, try another worker; give up if that fails, or happens again and again."""
        await self._health.set(False)
        self.worker_restarts += 1
        self._crashes.append(time.monotonic())
        if len(self._crashes) == CRASHES and self._crashes[-1] - self._crashes[0] < CRASHES_S:
            self._give_up(f"{CRASHES} crashes within {CRASHES_S:.0f} s")
            return
        crashed, version.batcher = version.batcher, self._batcher(version)
        await crashed.close()
        try:
            await version.batcher.submit(loading.probe(version.engine), PROBE_S)
        except Exception as error:
            self._give_up(f"the new worker does not answer ({type(error).__name__})")
            return
        await self._health.set(not self._stopping)
        _log.warning("the engine's worker was replaced")

    def _give_up(self, why: str) -> None:
        _log.error("the engine cannot be recovered (%s); ending, for a supervisor to start the server again", why)
        self.failed.set()

    async def _version(self, path: Path, fresh: list[Version]) -> Version:
        """The version at `path`: one that serves already if it is the same, else a new one, noted in `fresh`."""
        folder = await asyncio.to_thread(path.resolve)
        found = await asyncio.to_thread(loading.fingerprint, folder)
        for version in (*self.versions.serving, *fresh):
            if (version.name, version.fingerprint) == (folder.name, found):
                return version
        told = self._settings
        engine = await asyncio.to_thread(
            loading.load, folder, found, told.threads, told.device, told.trusted_keys, told.profile, told.variant
        )
        version = Version(folder.name, found, engine)
        version.batcher = self._batcher(version)
        fresh.append(version)
        return version


def _refuse_ambiguity(versions: list[Version]) -> None:
    names = [version.name for version in versions]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise LoadError("NAME_TAKEN", f"two bundles are called {', '.join(sorted(twice))}; rename a folder")
