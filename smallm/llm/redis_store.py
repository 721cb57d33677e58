"""The store of a fleet: Redis. What must not interleave is a Lua script; all keys share one cluster slot."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from smallm.errors import ArtifactError, MissingExtraError, StoreError
from smallm.llm.reasons import Reason
from smallm.llm.store import MAX_BYTES, Charge, Derived, Record, Stats, Touches

try:
    import redis
except ModuleNotFoundError:
    raise MissingExtraError("a redis:// store needs the redis client: pip install 'smallm[redis]'") from None

PASSWORD_VARIABLE = "SMALLM_REDIS_PASSWORD"  # never in the address, which is seen in process lists
TIMEOUT_S = 1.0  # Redis is a neighbour; one that is slower than this is away
_PREFIX = "{smallm}:"
_USED, _TOTAL = f"{_PREFIX}used", f"{_PREFIX}bytes"
_EXPIRES = struct.Struct("<d")

_PUT = """
local old = redis.call('HMGET', KEYS[1], 'outcome', 'expires', 'size')
if old[1] then
    local expires = tonumber(old[2])
    if old[1] == '' and not (expires > 0 and expires <= tonumber(ARGV[6])) then return 0 end
    redis.call('DEL', KEYS[1])
    redis.call('DECRBY', KEYS[3], old[3])
end
redis.call('HSET', KEYS[1], 'record', ARGV[2], 'outcome', ARGV[3], 'expires', ARGV[4], 'size', ARGV[5])
redis.call('HSET', KEYS[1], 'created', ARGV[7])
if ARGV[8] ~= '' then redis.call('HSET', KEYS[1], ARGV[8], ARGV[9]) end
redis.call('ZADD', KEYS[2], ARGV[6], ARGV[1])
redis.call('INCRBY', KEYS[3], ARGV[5])
return 1
"""
_EVICT = """
local total = tonumber(redis.call('GET', KEYS[2]) or '0')
if total <= tonumber(ARGV[1]) then return 0 end
while total > 0.9 * tonumber(ARGV[1]) do
    local oldest = redis.call('ZPOPMIN', KEYS[1])
    if #oldest == 0 then break end
    local size = redis.call('HGET', ARGV[2] .. oldest[1], 'size') or '0'
    redis.call('DEL', ARGV[2] .. oldest[1])
    total = redis.call('DECRBY', KEYS[2], size)
end
return 1
"""
_DERIVE = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'outcome', '', 'expires', ARGV[1], ARGV[2], ARGV[3])
return 1
"""
_PURGE = """
local size = redis.call('HGET', KEYS[1], 'size')
if not size then return 0 end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('DECRBY', KEYS[3], size)
return 1
"""
_CLAIM = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
_CHARGE = """
for index, one in ipairs(cjson.decode(ARGV[1])) do
    if one.limit then
        local now = tonumber(redis.call('GET', KEYS[2 * index - 1]) or '0')
        local before = tonumber(redis.call('GET', KEYS[2 * index]) or '0') * one.weight
        if now + before + one.amount > one.limit then return one.name end
    end
end
for index, one in ipairs(cjson.decode(ARGV[1])) do
    redis.call('INCRBY', KEYS[2 * index - 1], string.format('%.0f', one.amount))
    redis.call('PEXPIRE', KEYS[2 * index - 1], string.format('%.0f', 1000 * one.ttl_s))
end
return false
"""


class RedisStore:
    """See `smallm.llm.store.AnswerStore`. Connects when first used: a server starts without its Redis."""

    def __init__(self, url: str, max_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.time) -> None:
        """`url` is redis://host:port/db or rediss:// for TLS. Raises ArtifactError for another one."""
        self._max_bytes, self._clock, self._touches = max_bytes, clock, Touches()
        try:
            self._redis = redis.Redis.from_url(
                url,
                password=os.environ.get(PASSWORD_VARIABLE) or None,
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
            )
        except ValueError as error:
            raise ArtifactError(f"{url}: no address of a Redis ({error})") from None
        scripts = (_PUT, _EVICT, _DERIVE, _PURGE, _CLAIM, _RELEASE, _CHARGE)
        registered = [self._redis.register_script(script) for script in scripts]
        self._put, self._evict, self._derive, self._purge, self._claim, self._release, self._charge = registered

    def close(self) -> None:
        """See AnswerStore."""
        try:
            with _mapped():
                self._write_touches()
        finally:
            self._redis.close()

    def tags(self, keys: Sequence[str], reader: str) -> Derived | None:
        """See AnswerStore."""
        now = self._clock()
        with _mapped():
            if len(keys) == 1:
                found = [self._redis.hmget(_answer(keys[0]), reader, "created")]
            else:
                pipeline = self._redis.pipeline(transaction=False)
                for key in keys:
                    pipeline.hmget(_answer(key), reader, "created")
                found = pipeline.execute()
            for key, (packed, created) in zip(keys, found, strict=True):
                derived = None if packed is None else _unpacked(reader, packed, float(created or 0))
                if derived is not None and not 0 < derived.expires <= now:
                    if self._touches.note(key, now):
                        self._write_touches()
                    return derived
        return None

    def records(self, keys: Sequence[str]) -> dict[str, Record]:
        """See AnswerStore."""
        now = self._clock()
        return {record.key: record for record in self._read(keys) if not record.expired(now)}

    def put(self, entries: Iterable[tuple[Record, Derived | None]]) -> int:
        """See AnswerStore."""
        now = self._clock()
        with _mapped():
            pipeline = self._redis.pipeline(transaction=True)
            for record, derived in entries:
                fields = [record.key, _json(record), record.outcome or "", record.expires, record.size, now]
                fields.append(record.created)
                tags = [derived.reader, _packed(derived)] if derived else ["", ""]
                self._put([_answer(record.key), _USED, _TOTAL], [*fields, *tags], client=pipeline)
            kept = sum(pipeline.execute())
            self._write_touches()
            self._evict([_USED, _TOTAL], [self._max_bytes, _answer("")])
        return int(kept)

    def derive(self, key: str, derived: Derived) -> None:
        """See AnswerStore."""
        with _mapped():
            self._derive([_answer(key)], [derived.expires, derived.reader, _packed(derived)])

    def scan(self) -> Iterator[Record]:
        """See AnswerStore."""
        with _mapped():
            keys = [key.decode() for key, _ in self._redis.zscan_iter(_USED, count=1000)]
        for first in range(0, len(keys), 500):
            yield from self._read(keys[first : first + 500])

    def purge(self, keys: Iterable[str]) -> int:
        """See AnswerStore."""
        with _mapped():
            return sum(int(self._purge([_answer(key), _USED, _TOTAL], [key])) for key in keys)

    def stats(self) -> Stats:
        """See AnswerStore."""
        domains: dict[str, int] = {}
        outcomes: dict[str, int] = {}
        derived = 0
        for record in self.scan():
            domains[record.domain] = domains.get(record.domain, 0) + 1
            if record.outcome:
                outcomes[record.outcome] = outcomes.get(record.outcome, 0) + 1
            with _mapped():
                derived += bool(set(self._redis.hkeys(_answer(record.key))) - _PLAIN)
        with _mapped():
            total = int(self._redis.get(_TOTAL) or 0)
        return Stats(
            sum(domains.values()), derived, total, dict(sorted(domains.items())), dict(sorted(outcomes.items()))
        )

    def claim(self, name: str, owner: str, ttl_s: float) -> bool:
        """See AnswerStore."""
        with _mapped():
            return bool(self._claim([f"{_PREFIX}claim:{name}"], [owner, int(1000 * ttl_s)]))

    def release(self, name: str, owner: str) -> None:
        """See AnswerStore."""
        with _mapped():
            self._release([f"{_PREFIX}claim:{name}"], [owner])

    def charge(self, charges: Sequence[Charge]) -> str | None:
        """See AnswerStore."""
        keys = [_counter(name) for one in charges for name in (one.name, one.previous)]
        told = [{key: value for key, value in asdict(one).items() if value is not None} for one in charges]
        with _mapped():
            refused = self._charge(keys, [json.dumps(told)])
        return None if refused is None else refused.decode()

    def counters(self, names: Sequence[str]) -> list[int]:
        """See AnswerStore."""
        with _mapped():
            return [int(value or 0) for value in self._redis.mget([_counter(name) for name in names])]

    def _read(self, keys: Sequence[str]) -> Iterator[Record]:
        with _mapped():
            pipeline = self._redis.pipeline(transaction=False)
            for key in keys:
                pipeline.hmget(_answer(key), *_FIELDS)
            rows = pipeline.execute()
        for record, outcome, expires, _ in rows:
            if record is not None:
                yield _record(json.loads(record), outcome.decode(), float(expires))

    def _write_touches(self) -> None:
        used = self._touches.take()
        if used:
            self._redis.zadd(_USED, dict(used), xx=True)


_FIELDS = ("record", "outcome", "expires", "size")
_PLAIN = {name.encode() for name in (*_FIELDS, "created")}  # an answer's other fields are tags, by their reader


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise StoreError(f"the answer store failed: {type(error).__name__}") from None


def _answer(key: str) -> str:
    return f"{_PREFIX}answer:{key}"


def _counter(name: str) -> str:
    return f"{_PREFIX}counter:{name}"


def _packed(derived: Derived) -> bytes:
    return _EXPIRES.pack(derived.expires) + derived.tags


def _unpacked(reader: str, packed: Any, created: float) -> Derived:
    return Derived(reader, packed[_EXPIRES.size :], _EXPIRES.unpack_from(packed)[0], created)


def _json(record: Record) -> str:
    return json.dumps(asdict(record))  # ASCII: a lone surrogate in a reply survives


def _record(value: dict[str, Any], outcome: str, expires: float) -> Record:
    fields = {"types": tuple(value["types"]), "outcome": Reason(outcome) if outcome else None, "expires": expires}
    return Record(**{**value, **fields})
