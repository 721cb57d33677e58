"""Several processes on one store: one call for one text, and a kill at any moment."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from smallm.llm.reading import reader
from smallm.llm.store import open_store
from tests.fake_llm import ROOT, FakeLLM, Fault
from tests.llm.redis_server import RedisServer
from tests.llm.worker import record

KILLS, WRITERS = 50, 4


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.llm.worker", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "s.sqlite")
    server: RedisServer = request.getfixturevalue("redis_server")
    server.flush()
    return server.url


def test_200_callers_in_4_processes_make_one_call(store: str) -> None:
    with FakeLLM(fault=Fault(delay_s=1.5)) as fake:
        workers = [start("stampede", store, fake.url, "50") for _ in range(4)]
        answered = [worker.communicate(timeout=60)[0] for worker in workers]
        assert answered == ["50\n"] * 4 and len(fake.requests) == 1


def test_a_process_that_dies_while_it_asks_holds_up_the_others_no_longer_than_its_claim(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "s"))
    with FakeLLM(fault=Fault(delay_s=60)) as fake:
        worker = start("stampede", str(tmp_path / "s"), fake.url, "1")
        while not fake.requests:
            time.sleep(0.05)
        (name,) = (row[0] for row in sqlite3.connect(tmp_path / "s").execute("SELECT name FROM claims"))
        assert not store.claim(name, "other", 1)
        worker.kill()
        worker.wait()
    sqlite3.connect(tmp_path / "s", isolation_level=None).execute("UPDATE claims SET until = 1")  # ten seconds later
    assert store.claim(name, "other", 1)
    store.close()


@pytest.mark.slow
def test_fifty_kills_amid_the_writes_of_four_processes_lose_nothing_and_mix_nothing(tmp_path: Path) -> None:
    path, committed = tmp_path / "s.sqlite", []
    lock, generator = threading.Lock(), random.Random(0)

    def listen(worker: subprocess.Popen[str]) -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            if line.endswith("\n"):
                with lock:
                    committed.append(line.strip())

    writers: list[tuple[subprocess.Popen[str], threading.Thread]] = []
    for number in range(KILLS + WRITERS):
        worker = start("write", str(path), str(number))
        thread = threading.Thread(target=listen, args=[worker])
        thread.start()
        writers.append((worker, thread))
        if len(writers) >= WRITERS:
            before = len(committed)
            give_up = time.monotonic() + 20
            while len(committed) == before and time.monotonic() < give_up:  # somebody is writing
                time.sleep(0.005)
            time.sleep(generator.uniform(0, 0.05))
            victim, listener = writers.pop(0)
            victim.kill()
            victim.wait()
            listener.join()
    for worker, thread in writers:
        worker.kill()
        worker.wait()
        thread.join()
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store = open_store(str(path))
    kept = {one.key: one for one in store.scan()}
    assert len(committed) > KILLS and all(record(text).key in kept for text in committed)
    for one in kept.values():
        assert one == record(one.text)
        derived = store.tags([one.key], reader(("EQUIP",)))
        assert derived == one.derive()
    assert store.stats().bytes == sum(one.size for one in kept.values())
    store.close()
