"""Remembered LLM answers in SQLite: the raw reply under an exact key, what a parser made of it beside it.

Raw replies are kept for good; parsed tags belong to a parser version and are made again when that
changes. A reply that does not parse is kept raw and never gets tags. Processes share the file (WAL).
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from smallm.alignment import spans_to_tags
from smallm.documents import Span
from smallm.errors import ArtifactError
from smallm.labels import LabelSet
from smallm.llm.align import align
from smallm.llm.parse import PARSER_VERSION, parse_reply
from smallm.llm.prompt import Prompt
from smallm.llm.request import Request

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, domain TEXT NOT NULL, model TEXT NOT NULL, reply TEXT NOT NULL, created REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tags (
    key TEXT NOT NULL REFERENCES replies (key) ON DELETE CASCADE, parser INTEGER NOT NULL, spans TEXT NOT NULL,
    tags TEXT NOT NULL, PRIMARY KEY (key, parser)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Stats:
    """What a store holds: replies, those this parser version made tags of, by domain."""

    replies: int
    parsed: int
    by_domain: dict[str, int]


class AnswerStore:
    """Open or create the store at `path`. Raises ArtifactError if it is no store."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise ArtifactError(f"{path}: cannot be used as an answer store ({error})") from None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def spans(self, request: Request, prompt: Prompt, text: str) -> list[Span] | None:
        """The remembered spans for `request`, parsed now if this parser version has not yet; None if unknown.

        Raises LLMError("unparsable") if the reply is there but cannot be parsed.
        """
        with self._lock:
            row = self._db.execute(
                "SELECT spans FROM tags WHERE key = ? AND parser = ?", (request.key, PARSER_VERSION)
            ).fetchone()
            if row is not None:
                return [Span(*fields) for fields in json.loads(row[0])]
            row = self._db.execute("SELECT reply FROM replies WHERE key = ?", (request.key,)).fetchone()
        return None if row is None else self._parse(request, prompt, text, row[0])

    def add(self, request: Request, prompt: Prompt, text: str, reply: str) -> list[Span]:
        """Keep a raw reply, and its spans. Raises LLMError("unparsable") after keeping the reply."""
        self.add_replies([(request, reply)], prompt.domain)
        return self._parse(request, prompt, text, reply)

    def add_replies(self, replies: Iterable[tuple[Request, str]], domain: str) -> int:
        """Keep raw replies in one transaction, all or none; an older reply to a request stays. How many are new."""
        rows = [(request.key, domain, request.model.name, reply, time.time()) for request, reply in replies]
        with self._lock:
            before = self._db.total_changes
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?)", rows)
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            return self._db.total_changes - before

    def stats(self) -> Stats:
        """Count what is there."""
        with self._lock:
            by_domain = dict(self._db.execute("SELECT domain, count(*) FROM replies GROUP BY domain ORDER BY domain"))
            parsed = self._db.execute("SELECT count(*) FROM tags WHERE parser = ?", (PARSER_VERSION,)).fetchone()[0]
        return Stats(sum(by_domain.values()), parsed, by_domain)

    def _parse(self, request: Request, prompt: Prompt, text: str, reply: str) -> list[Span]:
        types = [type_.name for type_ in prompt.types]
        spans = align(parse_reply(reply), text, types)
        row = (request.key, PARSER_VERSION, _json(spans), json.dumps(_tags(spans, text, types), ensure_ascii=False))
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?)", row)
        return spans


def _json(spans: Sequence[Span]) -> str:
    return json.dumps([(span.start, span.end, span.type) for span in spans], ensure_ascii=False)


def _tags(spans: Sequence[Span], text: str, types: Sequence[str]) -> list[str]:
    """BIO tags, one a code point."""
    labels = LabelSet(tuple(types))
    return [labels.tags[tag] for tag in spans_to_tags(spans, [(i, i + 1) for i in range(len(text))], labels)]
