"""Answers given lately, by everything that determines them. Bounded in bytes; the least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from smallm_runtime.heads import Recognized

ENTRY_BYTES = 700  # of an entry beside its characters and entities; measured with tracemalloc
ENTITY_BYTES = 250
LARGEST_SHARE = 1 / 16  # of the whole: one document must not push everything else out


class Results:
    """A cache of at most `limit` bytes (an estimate from above), off at 0. Keys are exact, never digests."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[Any, tuple[Recognized, int]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Any) -> Recognized | None:
        """The answer kept for `key`."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Any, text: str, answers: int, recognized: Recognized) -> None:
        """Keep an answer to `text`; `answers` counts the LLM's spans in the key."""
        size = ENTRY_BYTES + 4 * len(text) + ENTITY_BYTES * (answers + len(recognized.entities))
        if size > LARGEST_SHARE * self._limit:
            return
        replaced = self._entries.pop(key, None)
        if replaced is not None:
            self.bytes -= replaced[1]
        self._entries[key] = recognized, size
        self.bytes += size
        while self.bytes > self._limit:
            self.bytes -= self._entries.popitem(last=False)[1][1]
