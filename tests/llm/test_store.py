"""One suite for every store: SQLite, and a real Redis."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from smallm.documents import Span
from smallm.errors import ArtifactError, LLMError, StoreError
from smallm.llm import parse
from smallm.llm.prompt import EntityType, Prompt
from smallm.llm.reading import reader
from smallm.llm.reasons import Reason
from smallm.llm.request import Model, ask
from smallm.llm.sqlite_store import SQLiteStore
from smallm.llm.store import AnswerStore, Charge, Record, open_store
from tests.llm.redis_server import RedisServer

PROMPT = Prompt("维修", (EntityType("EQUIP"), EntityType("FAULT")))
TYPES = PROMPT.type_names
REPLY = '[{"W": "泵", "L": "EQUIP"}]'
Open = Callable[..., AnswerStore]


class Clock:
    """Seconds that a test moves."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "memory", "redis"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Open]:
    """Opens the same store, again and again."""
    stores: list[AnswerStore] = []
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flush()

    def open_one(max_bytes: int = 1 << 20) -> AnswerStore:
        if request.param == "memory" and stores:
            return stores[0]  # there is no second way to it
        if request.param == "redis":
            from smallm.llm.redis_store import RedisStore

            stores.append(RedisStore(server.url, max_bytes, clock))
        else:
            path = tmp_path / "s.sqlite" if request.param == "sqlite" else ""
            stores.append(SQLiteStore(path, max_bytes, clock))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


def record(text: str = "换泵", reply: str = REPLY, outcome: Reason | None = None, expires: float = 0.0) -> Record:
    request = ask(Model("http://x", "m"), PROMPT, text)
    return Record(request.key, "维修", "http://x", "m", text, TYPES, reply, outcome, 7, 3, 0.5, 12.0, expires)


def test_what_is_put_is_found_whole_by_every_process(opened: Open) -> None:
    store, kept = opened(), record()
    assert store.records([kept.key]) == {} and store.tags([kept.key], reader(TYPES)) is None
    assert store.put([(kept, kept.derive())]) == 1
    assert store.records(["0" * 64, kept.key]) == {kept.key: kept}
    found = store.tags(["0" * 64, kept.key], reader(TYPES))
    assert found == kept.derive() and found.spans(TYPES) == [Span(1, 2, "EQUIP")]
    assert len(found.tags) == len(kept.text)
    again = opened()
    assert list(again.scan()) == [kept] and again.tags([kept.key], reader(TYPES)) == found


def test_the_first_key_that_has_tags_wins(opened: Open) -> None:
    store, one, other = opened(), record("换泵"), record("泵")
    store.put([(one, one.derive()), (other, other.derive())])
    for keys, length in (([one.key, other.key], 2), ([other.key, one.key], 1)):
        found = store.tags(keys, reader(TYPES))
        assert found is not None and len(found.tags) == length


def test_a_usable_reply_stays_until_it_expires_and_another_gives_way(opened: Open, clock: Clock) -> None:
    store = opened()
    bad = record(reply="?", outcome=Reason.UNPARSABLE, expires=clock.now + 5)
    good = record(expires=clock.now + 10)
    assert store.put([(bad, None)]) == 1
    assert store.put([(good, good.derive())]) == 1 and store.put([(bad, None)]) == 0
    assert store.records([good.key])[good.key].outcome is None
    clock.now += 10
    assert store.records([good.key]) == {} and store.tags([good.key], reader(TYPES)) is None
    assert list(store.scan()) == [good]
    assert store.put([(bad, None)]) == 1
    assert list(store.scan()) == [bad] and store.stats().bytes == bad.size


def test_what_is_no_answer_lives_shortly_and_has_no_tags(opened: Open, clock: Clock) -> None:
    store, bad = opened(), record(reply="?", outcome=Reason.REFUSED, expires=clock.now + 5)
    store.put([(bad, None)])
    assert store.records([bad.key]) == {bad.key: bad} and store.tags([bad.key], reader(TYPES)) is None
    clock.now += 5
    assert store.records([bad.key]) == {}


def test_tags_belong_to_a_parser_and_an_order_of_types(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store, kept = opened(), record()
    store.put([(kept, kept.derive())])
    assert store.tags([kept.key], reader(TYPES[::-1])) is None
    monkeypatch.setattr(parse, "PARSER_VERSION", 999)
    assert store.tags([kept.key], reader(TYPES)) is None
    store.derive(kept.key, kept.derive())
    assert store.tags([kept.key], reader(TYPES)) is not None


def test_tags_of_nothing_are_not_kept(opened: Open) -> None:
    store, kept = opened(), record()
    store.derive(kept.key, kept.derive())
    assert store.tags([kept.key], reader(TYPES)) is None and store.stats().replies == 0


def test_the_least_recently_used_go_when_it_is_full(opened: Open, clock: Clock) -> None:
    kept = [record(f"换泵{index:04}") for index in range(40)]
    store = opened(max_bytes=30 * kept[0].size)
    for one in kept[:30]:
        clock.now += 1
        store.put([(one, one.derive())])
    clock.now += 1
    for one in kept[:3]:
        assert store.tags([one.key], reader(TYPES)) is not None
    for one in kept[30:]:
        clock.now += 1
        store.put([(one, one.derive())])
    left = {one.text for one in store.scan()}
    assert {one.text for one in kept[:3]} <= left and kept[3].text not in left and kept[-1].text in left
    assert store.stats().bytes == sum(one.size for one in store.scan()) <= 30 * kept[0].size


def test_purge_and_stats(opened: Open, clock: Clock) -> None:
    store, kept, bad = opened(), record(), record("x", "?", Reason.UNPARSABLE, clock.now + 5)
    store.put([(kept, kept.derive()), (bad, None)])
    stats = store.stats()
    assert (stats.replies, stats.derived, stats.by_domain) == (2, 1, {"维修": 2})
    assert stats.by_outcome == {"unparsable": 1} and stats.bytes == kept.size + bad.size
    assert store.purge([kept.key, "0" * 64]) == 1
    assert store.tags([kept.key], reader(TYPES)) is None
    assert (store.stats().replies, store.stats().bytes) == (1, bad.size)


def test_a_put_is_all_or_nothing(opened: Open) -> None:
    store, good = opened(), record()
    with pytest.raises(Exception, match=r"."):
        store.put([(good, good.derive()), (replace(record("y"), reply=object()), None)])  # type: ignore[arg-type]
    assert store.stats().replies == 0 and store.put([(good, None)]) == 1


def test_a_claim_has_one_owner_until_it_ends(opened: Open) -> None:
    store, other = opened(), opened()
    assert store.claim("q", "a", 60) and store.claim("q", "a", 60) and not other.claim("q", "b", 60)
    other.release("q", "b")
    assert not other.claim("q", "b", 60)
    store.release("q", "a")
    assert other.claim("q", "b", 60)


def test_a_claim_of_the_dead_ends_by_itself(opened: Open, clock: Clock) -> None:
    store = opened()
    assert store.claim("q", "a", 0.05)
    clock.now += 0.1
    time.sleep(0.1)  # Redis has a clock of its own
    assert store.claim("q", "b", 60)


def test_charges_count_all_or_nothing_and_stop_at_their_limits(opened: Open) -> None:
    store = opened()
    calls, tokens = Charge("calls", 1, 60, 3), Charge("tokens", 40, 60, 100)
    assert store.charge([calls, tokens]) is None and store.charge([calls, tokens]) is None
    assert store.charge([calls, tokens]) == "tokens"
    assert store.counters(["calls", "tokens", "other"]) == [2, 80, 0]
    assert store.charge([Charge("tokens", -30, 60)]) is None
    assert store.charge([calls, tokens]) is None and store.charge([calls]) == "calls"
    weighted = Charge("this", 1, 60, 5, "calls", 0.5)
    assert [store.charge([weighted]) for _ in range(5)] == [None, None, None, "this", "this"]


def test_charges_of_many_threads_and_processes_do_not_pass_the_limit(opened: Open) -> None:
    stores = [opened(), opened()]
    granted: list[str | None] = []

    def spend(store: AnswerStore) -> None:
        granted.extend(store.charge([Charge("calls", 1, 60, 50)]) for _ in range(40))

    threads = [threading.Thread(target=spend, args=[stores[index % 2]]) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert granted.count(None) == 50 and stores[0].counters(["calls"]) == [50]


def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "s.sqlite"
    file.write_text("this is not a database, it is a text")
    with pytest.raises(ArtifactError, match="answer store"):
        open_store(str(file))
    assert file.read_text().startswith("this is")
    database = sqlite3.connect(tmp_path / "old.sqlite")
    database.execute("CREATE TABLE replies (key TEXT)")
    database.close()
    with pytest.raises(ArtifactError, match="format 0"):
        open_store(str(tmp_path / "old.sqlite"))


def test_failures_are_typed_and_tell_no_text(tmp_path: Path, redis_server: RedisServer) -> None:
    store = SQLiteStore(tmp_path / "s")
    store._writer.execute("DROP TABLE answers")
    away = open_store("redis://127.0.0.1:1/0")
    for broken in (store, away):
        with pytest.raises(StoreError) as caught:
            broken.put([(record("客户机密"), None)])
        assert "机密" not in str(caught.value)
    with pytest.raises(ArtifactError, match="no address"):
        open_store("redis://127.0.0.1:port/0")


def test_an_unusable_reply_derives_nothing() -> None:
    with pytest.raises(LLMError):
        record(reply="对不起").derive()
