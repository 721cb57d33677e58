"""Loading, reloading, draining: what serves, what health says, and that no request is lost."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from smallm_runtime import loading
from smallm_runtime.engine import Engine, Item, Work
from smallm_runtime.server import Settings, running

from smallm.admin.v1 import admin_pb2, admin_pb2_grpc
from smallm.errors import LoadError
from smallm.ner.v1 import ner_pb2, ner_pb2_grpc
from tests.runtime.bundles import altered, switch, variant

TEXT = "3号循环泵漏油，更换机械密封"
Scores = list[tuple[int, int, float]]


def scores(response: Any) -> Scores:
    """What tells the answers of two variants apart."""
    return [(one.start, one.end, round(one.score, 4)) for one in response.entities]


def expected(folder: Path) -> Scores:
    found = Engine.load(folder).recognize([Item(TEXT)])[0]
    return [(one.span.start, one.span.end, round(one.score, 4)) for one in found]


def detail(error: grpc.RpcError, kind: type) -> Any:
    """The detail of this kind in a refusal."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    found = [message for packed in status.details if packed.Unpack(message := kind())]
    assert len(found) == 1, status
    return found[0]


class Stubs:
    """Every service of a server in the same event loop."""

    def __init__(self, port: int) -> None:
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.ner = ner_pb2_grpc.NerServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    async def recognize(self, version: str = "") -> Scores:
        metadata = [("smallm-bundle-version", version)] if version else None
        return scores(await self.ner.Recognize(ner_pb2.RecognizeRequest(text=TEXT), metadata=metadata))

    async def reload(self) -> Any:
        return await self.admin.Reload(admin_pb2.ReloadRequest())

    async def status(self) -> Any:
        return await self.admin.GetStatus(admin_pb2.GetStatusRequest())

    async def serving(self) -> bool:
        reply = await self.health.Check(health_pb2.HealthCheckRequest())
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def with_server(told: Settings, use: Callable[[Stubs], Any]) -> None:
    async def go() -> None:
        async with running(told) as port:
            stubs = Stubs(port)
            await use(stubs)
            await stubs.channel.close(None)

    asyncio.run(asyncio.wait_for(go(), 60))


def settings(bundle: Path, *beside: Path) -> Settings:
    return Settings(bundle, "127.0.0.1:0", threads=1, beside=beside, notice_s=0)


def hold_first_batch(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Set when a request's first batch runs; until the other is set, it does not end."""
    held, release, step, batches = threading.Event(), threading.Event(), Engine.step, itertools.count()

    def slow(self: Engine, works: Sequence[Work]) -> None:
        if works[0].item.text == TEXT and next(batches) == 0:
            held.set()
            assert release.wait(30)
        step(self, works)

    monkeypatch.setattr(Engine, "step", slow)
    return held, release


@pytest.fixture
def bundles(bundle_folder: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two bundles with different answers, and a link to the first."""
    first, second = (variant(bundle_folder, tmp_path / name, t) for name, t in (("v1", 1.0), ("v2", 3.0)))
    link = tmp_path / "current"
    switch(link, first)
    return first, second, link


def test_a_switched_link_is_followed_by_reload_and_the_answers_change(bundles: Sequence[Path]) -> None:
    first, second, link = bundles
    old, new = expected(first), expected(second)
    assert old and old != new

    async def use(stubs: Stubs) -> None:
        assert await stubs.recognize() == old
        switch(link, second)
        assert await stubs.recognize() == old  # until told
        reply = await stubs.reload()
        assert reply.changed and [one.name for one in reply.versions] == ["v2"]
        assert reply.versions[0].fingerprint == loading.fingerprint(second)
        assert await stubs.recognize() == new
        assert not (await stubs.reload()).changed
        assert (await stubs.status()).state == admin_pb2.SERVER_STATE_SERVING

    with_server(settings(link), use)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda folder: altered(folder, "encoder.int8.onnx"), "BUNDLE_INVALID"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "BUNDLE_INVALID"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "BUNDLE_INVALID"),
        (lambda folder: (folder / "manifest.json").unlink(), "BUNDLE_INVALID"),
    ],
)
def test_a_bad_bundle_is_not_taken_and_what_served_goes_on(
    bundles: Sequence[Path], harm: Callable[[Path], Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, link = bundles
    old = expected(first)

    async def use(stubs: Stubs) -> None:
        harm(second)
        switch(link, second)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.reload()
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert detail(caught.value, error_details_pb2.ErrorInfo).reason == reason
        assert str(second) not in str(caught.value.details()) and str(second) in caplog.text
        assert await stubs.recognize() == old and await stubs.serving()
        status = await stubs.status()
        assert (status.failed_reload.reason, status.current.name) == (reason, "v1")
        switch(link, first)
        await stubs.reload()
        assert not (await stubs.status()).HasField("failed_reload")

    with_server(settings(link), use)


def test_a_bundle_that_changes_while_it_is_read_is_refused(
    bundles: Sequence[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = bundles
    before, load = loading.fingerprint(first), Engine.load

    def exchanged(folder: Path, *others: Any) -> Engine:
        engine = load(folder, *others)
        first.rename(first.with_name("gone"))
        second.rename(first)
        return engine

    monkeypatch.setattr(Engine, "load", exchanged)
    with pytest.raises(LoadError) as caught:
        loading.load(first, before, 1, "cpu")
    assert caught.value.reason == "BUNDLE_CHANGED"


def test_a_bundle_that_fails_its_warm_up_or_its_canaries_is_not_taken(
    bundles: Sequence[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, link = bundles
    old = expected(first)

    def fails(engine: Engine) -> None:
        raise LoadError("CANARY_FAILED", "text 3: other entities than at export")

    async def use(stubs: Stubs) -> None:
        switch(link, second)
        for name, failure, reason in (
            ("_warm_up", lambda engine: 1 / 0, "WARM_UP_FAILED"),
            ("_check_canaries", fails, "CANARY_FAILED"),
        ):
            with monkeypatch.context() as patch, pytest.raises(grpc.aio.AioRpcError) as caught:
                patch.setattr(loading, name, failure)
                await stubs.reload()
            assert detail(caught.value, error_details_pb2.ErrorInfo).reason == reason
            assert await stubs.recognize() == old
        assert (await stubs.reload()).changed

    with_server(settings(link), use)


def test_versions_side_by_side_answer_those_who_name_them(bundles: Sequence[Path]) -> None:
    first, second, link = bundles
    old, new = expected(first), expected(second)

    async def use(stubs: Stubs) -> None:
        listed = (await stubs.admin.ListVersions(admin_pb2.ListVersionsRequest())).versions
        assert [(one.name, one.state) for one in listed] == [
            ("v1", admin_pb2.VERSION_STATE_CURRENT),
            ("v2", admin_pb2.VERSION_STATE_BESIDE),
        ]
        assert await stubs.recognize() == await stubs.recognize("v1") == old
        assert await stubs.recognize("v2") == await stubs.recognize(listed[1].fingerprint[:8]) == new
        for unknown in ("v3", listed[1].fingerprint[:7]):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stubs.recognize(unknown)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            assert detail(caught.value, error_details_pb2.ResourceInfo).resource_name == unknown

    with_server(settings(link, second), use)
    with pytest.raises(LoadError, match="called v1"):
        with_server(settings(link, first), use)


def test_an_old_version_lives_until_its_last_request_is_done_and_no_longer(
    bundles: Sequence[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, link = bundles
    old, new = expected(first), expected(second)
    held, release = hold_first_batch(monkeypatch)

    async def use(stubs: Stubs) -> None:
        early = asyncio.ensure_future(stubs.recognize())
        await asyncio.to_thread(held.wait, 30)
        switch(link, second)
        await stubs.reload()
        assert await stubs.recognize() == new
        versions = (await stubs.admin.ListVersions(admin_pb2.ListVersionsRequest())).versions
        assert [(one.name, one.state, one.requests) for one in versions] == [
            ("v2", admin_pb2.VERSION_STATE_CURRENT, 0),
            ("v1", admin_pb2.VERSION_STATE_DRAINING, 1),
        ]
        release.set()
        assert await early == old
        while len((await stubs.admin.ListVersions(admin_pb2.ListVersionsRequest())).versions) > 1:
            await asyncio.sleep(0.01)

    with_server(settings(link), use)


def test_while_a_bundle_loads_health_and_every_call_say_so(
    bundles: Sequence[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    listening, release, load = threading.Event(), threading.Event(), Engine.load
    port: list[int] = []

    def slow(folder: Path, *others: Any) -> Engine:
        listening.set()
        assert release.wait(30)
        return load(folder, *others)

    async def go() -> None:
        from smallm_runtime import server

        bind = server.bind

        def noted(*arguments: Any) -> int:
            port.append(bind(*arguments))
            return port[0]

        monkeypatch.setattr(server, "bind", noted)
        monkeypatch.setattr(Engine, "load", slow)

        async def serve() -> None:
            async with running(settings(bundles[0])):
                await stopped.wait()

        stopped = asyncio.Event()
        task = asyncio.create_task(serve())
        await asyncio.to_thread(listening.wait, 30)
        stubs = Stubs(port[0])
        assert not await stubs.serving()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.recognize()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert detail(caught.value, error_details_pb2.ErrorInfo).reason == "LOADING"
        assert detail(caught.value, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
        assert (await stubs.status()).state == admin_pb2.SERVER_STATE_LOADING
        release.set()
        while not await stubs.serving():
            await asyncio.sleep(0.01)
        assert await stubs.recognize()
        stopped.set()
        await task
        await stubs.channel.close(None)

    asyncio.run(asyncio.wait_for(go(), 60))


def test_reloads_under_load_lose_nothing_and_answer_as_one_of_the_two(bundles: Sequence[Path]) -> None:
    first, second, link = bundles
    answers = [expected(first), expected(second)]

    async def use(stubs: Stubs) -> None:
        done = False
        seen = [0, 0]

        async def client() -> None:
            while not done:
                seen[answers.index(await stubs.recognize())] += 1

        clients = [asyncio.create_task(client()) for _ in range(20)]
        for turn in range(4):
            switch(link, (second, first)[turn % 2])
            assert (await stubs.reload()).changed
            enough = seen[1 - turn % 2] + 20
            while seen[1 - turn % 2] < enough:
                await asyncio.sleep(0.01)
        done = True
        await asyncio.gather(*clients)
        assert min(seen) >= 40

    with_server(settings(link), use)


def test_a_stop_says_so_first_and_finishes_what_runs(bundles: Sequence[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    held, release = hold_first_batch(monkeypatch)

    async def go() -> None:
        told = Settings(bundles[0], "127.0.0.1:0", threads=1, notice_s=0.5)
        stop = asyncio.Event()
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def serve() -> None:
            async with running(told) as number:
                port.set_result(number)
                await stop.wait()

        task = asyncio.create_task(serve())
        stubs = Stubs(await port)
        running_call = asyncio.ensure_future(stubs.recognize())
        await asyncio.to_thread(held.wait, 30)
        stop.set()
        while await stubs.serving():  # still listening, and says no
            await asyncio.sleep(0.01)
        assert (await stubs.status()).state == admin_pb2.SERVER_STATE_STOPPING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.reload()
        assert detail(caught.value, error_details_pb2.ErrorInfo).reason == "STOPPING"
        late = asyncio.ensure_future(stubs.recognize())  # within the notice: still answered
        await asyncio.sleep(0.1)
        release.set()
        assert await running_call and await late
        await task
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stubs.recognize()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        await stubs.channel.close(None)

    asyncio.run(asyncio.wait_for(go(), 60))


class Crash(BaseException):
    """What no `except Exception` catches."""


def crash_on(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    step = Engine.step

    def crashes(self: Engine, works: Sequence[Work]) -> None:
        if any(work.item.text == text for work in works):
            raise Crash
        step(self, works)

    monkeypatch.setattr(Engine, "step", crashes)


def test_a_crashed_worker_is_noticed_and_replaced(bundles: Sequence[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first, old = bundles[0], expected(bundles[0])
    crash_on(monkeypatch, "崩溃")

    async def use(stubs: Stubs) -> None:
        watch = stubs.health.Watch(health_pb2.HealthCheckRequest())
        told = [(await watch.read()).status]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.ner.Recognize(ner_pb2.RecognizeRequest(text="崩溃"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert detail(caught.value, error_details_pb2.ErrorInfo).reason == "RECOVERING"
        assert detail(caught.value, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
        told += [(await watch.read()).status, (await watch.read()).status]
        serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        assert told == [serving, not_serving, serving]
        assert await stubs.recognize() == old
        status = await stubs.status()
        assert (status.worker_restarts, status.state) == (1, admin_pb2.SERVER_STATE_SERVING)
        watch.cancel()

    with_server(settings(first), use)


SCRIPT = """
import sys, time
from smallm_runtime import batcher, engine, server
from smallm.cli import main
batcher.STALL_S, server.MARGIN_S = 0.3, -9.0  # of ten seconds of grace
step = engine.Engine.step
class Crash(BaseException):
    pass
def harmed(self, works):
    if works[0].item.text == "崩溃":
        raise Crash
    if works[0].item.text == "挂起":
        time.sleep(1000)
    step(self, works)
engine.Engine.step = harmed
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("text", ["崩溃", "挂起"])
def test_an_engine_that_crashes_or_hangs_again_and_again_ends_the_process(bundles: Sequence[Path], text: str) -> None:
    command = [sys.executable, "-c", SCRIPT, "serve", str(bundles[0]), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().rpartition(" ")[2].strip()
    refusals = []
    with grpc.insecure_channel(address) as channel:
        stub = ner_pb2_grpc.NerServiceStub(channel)
        for _ in range(40):
            try:
                stub.Recognize(ner_pb2.RecognizeRequest(text=text), timeout=10)
            except grpc.RpcError as error:
                refusals.append(error.code())
            if process.poll() is not None:
                break
            time.sleep(0.1)
    log = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert set(refusals) == {grpc.StatusCode.UNAVAILABLE} and len(refusals) >= 3
    assert "cannot be recovered" in log and text not in log
