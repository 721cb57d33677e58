"""A store in trouble: answers go on, nobody waits long, and it is used again when it can be."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from smallm.errors import ArtifactError, StoreError
from smallm.llm import bridge as bridge_module
from smallm.llm import sqlite_store
from smallm.llm.bridge import Bridge, Status
from smallm.llm.late_store import LateStore
from smallm.llm.reasons import Reason
from smallm.llm.settings import Mode
from smallm.llm.sqlite_store import SQLiteStore
from smallm.llm.store import Record, open_store
from smallm.llm.store_threads import StoreThreads
from tests.fake_llm import PUMP, FakeLLM
from tests.llm.bridges import PROMPT, TEXT, answers, settings, with_bridge


def test_a_call_that_hangs_or_fails_costs_its_patience_once_and_is_tried_again_after_the_pause() -> None:
    async def go() -> None:
        threads = StoreThreads("store", 2, patience_s=0.05, pause_s=0.3)
        hang, calls = threading.Event(), []

        def hangs() -> None:
            calls.append(1)
            hang.wait(5)

        def fails() -> None:
            calls.append(1)
            raise StoreError("disk full")

        for call in (hangs, fails):
            calls.clear()
            with pytest.raises(StoreError):
                await threads.run(call)
            for _ in range(20):
                with pytest.raises(StoreError, match="left alone"):
                    await threads.run(call)
            assert len(calls) == 1
            await asyncio.sleep(0.35)
        assert await threads.run(lambda: 7) == 7
        hang.set()
        threads.close()

    asyncio.run(go())


def test_a_locked_store_is_still_read_and_holds_up_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "BUSY_S", 3.0)
    monkeypatch.setattr(bridge_module, "_WRITE_S", 0.2)
    path = tmp_path / "s.sqlite"
    with FakeLLM() as fake:
        told = settings(fake.url, store=path)
        assert answers(told, TEXT)[0].status is Status.FRESH

        async def use(bridge: Bridge) -> None:
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN EXCLUSIVE")
            assert (await bridge.answer(PROMPT, TEXT)).status is Status.CACHED
            begin = time.monotonic()
            assert (await bridge.answer(PROMPT, "换阀")).status is Status.FRESH  # used, and forgotten
            unlucky = time.monotonic() - begin
            begin = time.monotonic()
            results = await asyncio.gather(*(bridge.answer(PROMPT, f"换泵{n}") for n in range(30)))
            assert {result.status for result in results} == {Status.FRESH}
            assert unlucky < 2 and time.monotonic() - begin < 2  # not BUSY_S
            other.execute("ROLLBACK")
            other.close()

        with_bridge(told, use)


def test_reads_note_their_use_only_if_that_takes_no_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smallm.llm.store._TOUCHES", 1)
    path = tmp_path / "s.sqlite"
    store = SQLiteStore(path)
    record = Record("k", PROMPT.domain, "u", "m", TEXT, PROMPT.type_names, PUMP)
    derived = record.derive()
    store.put([(record, derived)])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    begin = time.monotonic()
    assert store.tags(["k"], derived.reader) == derived
    assert time.monotonic() - begin < 10  # not BUSY_S
    other.execute("ROLLBACK")
    other.close()
    assert store.claim("afterwards", "it writes", 1.0)
    store.close()


@pytest.mark.parametrize("harm", ["deleted", "read_only", "full"])
def test_a_store_that_cannot_be_written_any_more(harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.sqlite"
    with FakeLLM() as fake:
        told = settings(fake.url, store=path)

        async def use(bridge: Bridge) -> None:
            assert (await bridge.answer(PROMPT, TEXT)).status is Status.FRESH
            if harm == "deleted":
                for file in tmp_path.glob("s.sqlite*"):
                    file.unlink()
            elif harm == "read_only":
                bridge._store._writer.execute("PRAGMA query_only = 1")  # type: ignore[attr-defined]
            else:
                pages = bridge._store._writer.execute("PRAGMA page_count").fetchone()[0]  # type: ignore[attr-defined]
                bridge._store._writer.execute(f"PRAGMA max_page_count = {pages}")  # type: ignore[attr-defined]
            for number in range(30):
                assert (await bridge.answer(PROMPT, f"换泵{number}" + "长" * 500)).status is Status.FRESH
            assert (await bridge.answer(PROMPT, TEXT)).status is Status.CACHED

        with_bridge(told, use)


def test_a_store_that_cannot_be_opened_yet_is_used_as_soon_as_it_can(tmp_path: Path) -> None:
    path, full = tmp_path / "s.sqlite", True

    def open_() -> Any:
        if full:
            raise StoreError("no room")
        return open_store(str(path))

    async def go() -> None:
        nonlocal full
        with FakeLLM() as fake:
            bridge = Bridge(settings(fake.url), LateStore(open_))
            assert (await bridge.answer(PROMPT, TEXT, Mode.CACHED_ONLY)).reason is Reason.NOT_CACHED
            assert (await bridge.answer(PROMPT, TEXT)).status is Status.FRESH
            full = False
            bridge._reads._resume = bridge._writes._resume = 0.0  # the pause is over
            assert (await bridge.answer(PROMPT, TEXT)).status is Status.FRESH
            assert (await bridge.answer(PROMPT, TEXT)).status is Status.CACHED
            await bridge.close()

    asyncio.run(go())


def test_a_store_that_is_none_and_one_that_cannot_be_opened_now_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is not a database, it is a text, and long enough")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactError):
        SQLiteStore(tmp_path / "text")
    with pytest.raises(StoreError):
        SQLiteStore(tmp_path / "folder")
