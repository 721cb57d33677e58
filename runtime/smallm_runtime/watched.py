"""A value read from files that may be replaced while the server runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from smallm.errors import SmallmError

_log = logging.getLogger(__name__)
T = TypeVar("T")
EVERY_S = 1.0


class Watched(Generic[T]):
    """The newest good value. New content that is no good is logged once, and the old value stays in force.

    That is also so while one of several files has been replaced and the others not yet. Thread-safe.
    """

    def __init__(self, paths: Sequence[Path], load: Callable[[], T]) -> None:
        """Raises what `load` raises (a SmallmError) if even the first content is no good."""
        self._paths, self._load = paths, load
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._value = load()
        self._next = time.monotonic() + EVERY_S

    def get(self) -> T:
        """The value; looks at the files at most every EVERY_S."""
        with self._lock:
            if time.monotonic() >= self._next:
                self._next = time.monotonic() + EVERY_S
                stamp = self._look()  # before reading: what changes meanwhile is read again
                if stamp != self._stamp:
                    self._stamp = stamp
                    self._renew()
            return self._value

    def _renew(self) -> None:
        names = ", ".join(map(str, self._paths))
        try:
            self._value = self._load()
        except SmallmError as error:
            _log.error("%s changed and cannot be used; the old content stays in force: %s", names, error)
        else:
            _log.info("%s changed; the new content is in force", names)

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
