"""What a store of LLM answers is, whatever keeps it.

Three things that replicas have to share: the raw replies and the tags derived from them, claims (who
is asking just now), and counters (what was spent). `open_store` chooses SQLite or Redis by the address.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from smallm.documents import Span
from smallm.labels import LabelSet
from smallm.llm import compact
from smallm.llm.reading import read_reply, reader
from smallm.llm.reasons import Reason

MAX_BYTES = 1 << 30
_TOUCHES = 256  # uses noted before they are written down
_SOON_S, _REMEMBERED = 60.0, 1 << 16


@dataclass(frozen=True)
class Record:
    """A raw reply and how it came about. `text` is the text as it was sent, redacted if it was.

    `outcome` is empty for a usable reply, else why it is none. Times are seconds since 1970;
    `expires` 0 is never. `created`, when the LLM answered, and `latency_s` are 0 where unknown.
    """

    key: str
    domain: str
    provider: str
    model: str
    text: str
    types: tuple[str, ...]
    reply: str
    outcome: Reason | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_s: float = 0.0
    created: float = field(default_factory=time.time)
    expires: float = 0.0

    @property
    def size(self) -> int:
        """Bytes it is counted with."""
        return len(self.reply.encode("utf-8", "replace")) + 4 * len(self.text) + 400

    def expired(self, now: float) -> bool:
        """Whether it may no longer be used."""
        return bool(self.expires) and self.expires <= now

    def derive(self) -> Derived:
        """Its tags under this parser version. Raises LLMError if it is no usable answer."""
        spans = read_reply(self.reply, self.text, self.types)
        packed = compact.encode(spans, len(self.text), LabelSet(self.types))
        return Derived(reader(self.types), packed, self.expires, self.created)


@dataclass(frozen=True, slots=True)
class Derived:
    """Tags made of a reply (see `compact`), keyed with their `reader`. `created` is the record's."""

    reader: str
    tags: bytes
    expires: float = 0.0
    created: float = 0.0

    def spans(self, types: Sequence[str]) -> list[Span]:
        """The spans they stand for."""
        return compact.decode(self.tags, LabelSet(tuple(types)))


@dataclass(frozen=True, slots=True)
class Charge:
    """An amount for a counter that lives `ttl_s` seconds after its last change.

    Refused if the counter, plus `weight` of the counter `previous`, would pass `limit` (None: never).
    """

    name: str
    amount: int
    ttl_s: float
    limit: float | None = None
    previous: str = ""
    weight: float = 0.0


@dataclass(frozen=True)
class Stats:
    """What a store holds: replies in all, those with tags, those that are no answer, by reason and by domain."""

    replies: int
    derived: int
    bytes: int
    by_domain: dict[str, int]
    by_outcome: dict[str, int]


class AnswerStore(Protocol):
    """Shared between threads and processes. Every method raises StoreError if the store fails."""

    def tags(self, keys: Sequence[str], reader: str) -> Derived | None:
        """Unexpired tags of the first of `keys` that has some; counts as a use of it."""

    def records(self, keys: Sequence[str]) -> dict[str, Record]:
        """Unexpired records by key."""

    def put(self, entries: Iterable[tuple[Record, Derived | None]]) -> int:
        """Keep records with their tags, all or none of one call; how many.

        A usable record stays until it expires; one that expired or is no answer gives way.
        """

    def derive(self, key: str, derived: Derived) -> None:
        """Keep tags of a record that is there already; it becomes usable if it was not."""

    def scan(self) -> Iterator[Record]:
        """Every record, expired ones too, in no order."""

    def purge(self, keys: Iterable[str]) -> int:
        """Forget records and their tags; how many there were."""

    def stats(self) -> Stats:
        """Count what is there."""

    def claim(self, name: str, owner: str, ttl_s: float) -> bool:
        """Take or renew `name` for `ttl_s` seconds; False while another owner has it."""

    def release(self, name: str, owner: str) -> None:
        """Give `name` back if `owner` has it."""

    def charge(self, charges: Sequence[Charge]) -> str | None:
        """Add every amount, or none and the name of the first counter that would pass its limit."""

    def counters(self, names: Sequence[str]) -> list[int]:
        """What was counted; 0 for a counter that is not there."""

    def close(self) -> None:
        """Write down what is pending and let go."""


class Touches:
    """Uses noted in memory and written in batches: a read must not cost a write. A crash loses some; no harm.

    A use soon after another of the same key is not noted: eviction need not know the order to the second.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._noted: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def note(self, key: str, now: float) -> bool:
        """Note a use; whether it is time to write them down."""
        if now - self._last.get(key, -_SOON_S) < _SOON_S:
            return False
        with self._lock:
            if len(self._last) >= _REMEMBERED:
                self._last.clear()
            self._last[key] = self._noted[key] = now
            return len(self._noted) >= _TOUCHES

    def take(self) -> dict[str, float]:
        """What was noted since the last time."""
        with self._lock:
            noted, self._noted = self._noted, {}
            return noted


def open_store(address: str, max_bytes: int = MAX_BYTES) -> AnswerStore:
    """The store at a file path, at `redis://host:port/db`, or in memory (''). Raises ArtifactError."""
    if address.startswith(("redis://", "rediss://")):
        from smallm.llm.redis_store import RedisStore

        return RedisStore(address, max_bytes)
    from smallm.llm.sqlite_store import SQLiteStore

    return SQLiteStore(address, max_bytes)
