"""A store that could not be opened yet: tried again at every use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from smallm.errors import ArtifactError, StoreError
from smallm.llm.store import AnswerStore


class LateStore:
    """Every method of an `AnswerStore`, of the one that `open_` returns when it can. Raises StoreError until then.

    A server that starts with a full disk answers without its memory, and remembers when there is room.
    """

    def __init__(self, open_: Callable[[], AnswerStore]) -> None:
        self._open = open_
        self._store: AnswerStore | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """See AnswerStore."""
        if self._store is not None:
            self._store.close()

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: getattr(self._opened(), name)(*arguments)

    def _opened(self) -> AnswerStore:
        with self._lock:
            if self._store is None:
                try:
                    self._store = self._open()
                except ArtifactError as error:
                    raise StoreError(str(error)) from None
            return self._store
