"""The embedded store: one SQLite file (WAL) that processes share and a kill at any moment leaves whole."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smallm.errors import ArtifactError, StoreError
from smallm.llm.reasons import Reason
from smallm.llm.store import MAX_BYTES, Charge, Derived, Record, Stats, Touches

FORMAT = 2
BUSY_S = 30.0  # how long to wait for another process's write
_COLUMNS = (
    "key, domain, provider, model, text, types, reply, outcome, prompt_tokens, completion_tokens, latency_s, "
    "created, expires"
)
_SCHEMA = """
CREATE TABLE answers (
    key TEXT PRIMARY KEY, domain TEXT NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL, text TEXT NOT NULL,
    types TEXT NOT NULL, reply TEXT NOT NULL, outcome TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, latency_s REAL NOT NULL, created REAL NOT NULL, expires REAL NOT NULL,
    used REAL NOT NULL, size INTEGER NOT NULL
);
CREATE INDEX answers_used ON answers (used);
CREATE TABLE tags (
    key TEXT NOT NULL, reader TEXT NOT NULL, tags BLOB NOT NULL, expires REAL NOT NULL, PRIMARY KEY (key, reader)
) WITHOUT ROWID;
CREATE TABLE claims (name TEXT PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE total (bytes INTEGER NOT NULL);
INSERT INTO total VALUES (0);
CREATE TRIGGER answers_added AFTER INSERT ON answers BEGIN UPDATE total SET bytes = bytes + new.size; END;
CREATE TRIGGER answers_removed AFTER DELETE ON answers BEGIN
    UPDATE total SET bytes = bytes - old.size;
    DELETE FROM tags WHERE key = old.key;
END;
"""
_READ_TAGS = (
    "SELECT tags.tags, tags.expires, answers.created FROM tags JOIN answers USING (key) "
    "WHERE tags.key = ? AND tags.reader = ?"
)


class SQLiteStore:
    """See `smallm.llm.store.AnswerStore`. Reads have a connection of their own: in WAL they wait for no writer."""

    def __init__(
        self, path: str | Path = "", max_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.time
    ) -> None:
        """Open or create the file; '' keeps everything in memory.

        Raises ArtifactError if it is no store, StoreError if it may be one but cannot be used now.
        """
        self._max_bytes, self._clock, self._touches = max_bytes, clock, Touches()
        self._write_lock = threading.Lock()
        try:
            if path:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._writer = _connect(path)
            _prepare(self._writer, path)
            self._reader = _connect(path) if path else self._writer
        except (sqlite3.OperationalError, OSError) as error:
            raise StoreError(f"{path}: cannot be used as an answer store now ({error})") from None
        except sqlite3.Error as error:
            raise ArtifactError(f"{path}: cannot be used as an answer store ({error})") from None
        self._read_lock = threading.Lock() if path else self._write_lock

    def close(self) -> None:
        """See AnswerStore."""
        with self._transaction():
            self._write_touches()
        for connection in {id(one): one for one in (self._reader, self._writer)}.values():
            connection.close()

    def tags(self, keys: Sequence[str], reader: str) -> Derived | None:
        """See AnswerStore."""
        now = self._clock()
        for key in keys:
            with _mapped(), self._read_lock:
                row = self._reader.execute(_READ_TAGS, (key, reader)).fetchone()
            if row is not None and (not row[1] or row[1] > now):
                if self._touches.note(key, now):
                    self._try_write_touches()
                return Derived(reader, *row)
        return None

    def records(self, keys: Sequence[str]) -> dict[str, Record]:
        """See AnswerStore."""
        marks = ", ".join("?" * len(keys))
        with _mapped(), self._read_lock:
            rows = self._reader.execute(f"SELECT {_COLUMNS} FROM answers WHERE key IN ({marks})", keys).fetchall()
        now = self._clock()
        return {record.key: record for record in map(_record, rows) if not record.expired(now)}

    def put(self, entries: Iterable[tuple[Record, Derived | None]]) -> int:
        """See AnswerStore."""
        now, kept = self._clock(), 0
        with self._transaction() as db:
            for record, derived in entries:
                there = db.execute("SELECT outcome, expires FROM answers WHERE key = ?", (record.key,)).fetchone()
                if there is not None:
                    if not there[0] and not 0 < there[1] <= now:
                        continue
                    db.execute("DELETE FROM answers WHERE key = ?", (record.key,))
                db.execute(f"INSERT INTO answers VALUES ({', '.join('?' * 15)})", (*_row(record), now, record.size))
                if derived is not None:
                    _put_tags(db, record.key, derived)
                kept += 1
            self._write_touches()
            self._evict(db)
        return kept

    def derive(self, key: str, derived: Derived) -> None:
        """See AnswerStore."""
        with self._transaction() as db:
            changed = db.execute(
                "UPDATE answers SET outcome = '', expires = ? WHERE key = ?", (derived.expires, key)
            ).rowcount
            if changed:
                _put_tags(db, key, derived)

    def scan(self) -> Iterator[Record]:
        """See AnswerStore."""
        last = ""
        while True:
            with _mapped(), self._read_lock:
                rows = self._reader.execute(
                    f"SELECT {_COLUMNS} FROM answers WHERE key > ? ORDER BY key LIMIT 500", (last,)
                ).fetchall()
            if not rows:
                return
            yield from map(_record, rows)
            last = rows[-1][0]

    def purge(self, keys: Iterable[str]) -> int:
        """See AnswerStore."""
        with self._transaction() as db:
            return sum(db.execute("DELETE FROM answers WHERE key = ?", (key,)).rowcount for key in keys)

    def stats(self) -> Stats:
        """See AnswerStore."""
        with _mapped(), self._read_lock:
            query = self._reader.execute
            domains = dict(query("SELECT domain, count(*) FROM answers GROUP BY domain ORDER BY domain").fetchall())
            outcomes = dict(query("SELECT outcome, count(*) FROM answers GROUP BY outcome ORDER BY outcome").fetchall())
            derived = query("SELECT count(DISTINCT key) FROM tags").fetchone()[0]
            total = query("SELECT bytes FROM total").fetchone()[0]
        outcomes.pop("", None)
        return Stats(sum(domains.values()), derived, total, domains, outcomes)

    def claim(self, name: str, owner: str, ttl_s: float) -> bool:
        """See AnswerStore."""
        now = self._clock()
        with self._transaction() as db:
            return bool(
                db.execute(
                    "INSERT INTO claims VALUES (:name, :owner, :until) ON CONFLICT (name) DO UPDATE "
                    "SET owner = :owner, until = :until WHERE owner = :owner OR until <= :now",
                    {"name": name, "owner": owner, "until": now + ttl_s, "now": now},
                ).rowcount
            )

    def release(self, name: str, owner: str) -> None:
        """See AnswerStore."""
        with self._transaction() as db:
            db.execute("DELETE FROM claims WHERE (name = ? AND owner = ?) OR until <= ?", (name, owner, self._clock()))

    def charge(self, charges: Sequence[Charge]) -> str | None:
        """See AnswerStore."""
        now = self._clock()
        with self._transaction() as db:
            for one in charges:
                if one.limit is not None:
                    before = _counter(db, one.previous, now) * one.weight if one.previous else 0.0
                    if _counter(db, one.name, now) + before + one.amount > one.limit:
                        return one.name
            db.execute("DELETE FROM counters WHERE until <= ?", (now,))
            db.executemany(
                "INSERT INTO counters VALUES (:name, :amount, :until) ON CONFLICT (name) DO UPDATE "
                "SET value = value + :amount, until = :until",
                [{"name": one.name, "amount": one.amount, "until": now + one.ttl_s} for one in charges],
            )
        return None

    def counters(self, names: Sequence[str]) -> list[int]:
        """See AnswerStore."""
        with _mapped(), self._read_lock:
            return [_counter(self._reader, name, self._clock()) for name in names]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._write_lock, _mapped():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _try_write_touches(self) -> None:
        """Unless anybody else writes: a read waits for no writer, and its success needs no write."""
        if not self._write_lock.acquire(blocking=False):
            return
        try:
            self._writer.execute("PRAGMA busy_timeout = 0")
            self._writer.execute("BEGIN IMMEDIATE")
            self._write_touches()
            self._writer.execute("COMMIT")
        except sqlite3.Error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        finally:
            self._writer.execute(f"PRAGMA busy_timeout = {1000 * BUSY_S:.0f}")
            self._write_lock.release()

    def _write_touches(self) -> None:
        used = [(when, key) for key, when in self._touches.take().items()]
        self._writer.executemany("UPDATE answers SET used = ? WHERE key = ?", used)

    def _evict(self, db: sqlite3.Connection) -> None:
        """Down to nine tenths, so that not every put evicts; rows go in the order of their last use."""
        total = db.execute("SELECT bytes FROM total").fetchone()[0]
        if total <= self._max_bytes:
            return
        while total > 0.9 * self._max_bytes:
            oldest = db.execute("SELECT rowid, size FROM answers ORDER BY used LIMIT 100").fetchall()
            for rowid, size in oldest:
                if total <= 0.9 * self._max_bytes:
                    return
                db.execute("DELETE FROM answers WHERE rowid = ?", (rowid,))
                total -= size
            if not oldest:
                return


def _connect(path: str | Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path or ":memory:", timeout=BUSY_S, check_same_thread=False, isolation_level=None)
    connection.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing; a power cut, the last moments
    return connection


def _prepare(db: sqlite3.Connection, path: str | Path) -> None:
    give_up = time.monotonic() + BUSY_S
    while True:  # changing the journal mode does not wait for other processes by itself
        try:
            db.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)
    db.execute("BEGIN IMMEDIATE")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    tables = db.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
    if version == 0 and not tables:
        for statement in _statements(_SCHEMA):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {FORMAT}")
    elif version != FORMAT:
        db.execute("ROLLBACK")
        raise ArtifactError(f"{path}: a store of format {version}; this smallm reads {FORMAT}. Import the answers anew")
    db.execute("COMMIT")


def _statements(script: str) -> Iterator[str]:
    """`executescript` would end the transaction that makes this safe between processes."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"the answer store failed: {type(error).__name__}: {error}") from None


def _counter(db: sqlite3.Connection, name: str, now: float) -> int:
    row = db.execute("SELECT value FROM counters WHERE name = ? AND until > ?", (name, now)).fetchone()
    return int(row[0]) if row else 0


def _put_tags(db: sqlite3.Connection, key: str, derived: Derived) -> None:
    db.execute("INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?)", (key, derived.reader, derived.tags, derived.expires))


def _row(record: Record) -> tuple[Any, ...]:
    return (
        record.key,
        record.domain,
        record.provider,
        record.model,
        record.text,
        json.dumps(record.types, ensure_ascii=False),
        record.reply,
        record.outcome or "",
        record.prompt_tokens,
        record.completion_tokens,
        record.latency_s,
        record.created,
        record.expires,
    )


def _record(row: Sequence[Any]) -> Record:
    key, domain, provider, model, text, types, reply, outcome, *rest = row
    reason = Reason(outcome) if outcome else None
    return Record(key, domain, provider, model, text, tuple(json.loads(types)), reply, reason, *rest)
