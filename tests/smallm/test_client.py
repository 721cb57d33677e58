"""Both clients against a server that does what a test tells it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status
from smallm_runtime.status import to_status

from smallm import errors
from smallm.client import AsyncClient, Client, Connection, Retry
from smallm.client.retry import Tries
from smallm.ner.v1 import ner_pb2, ner_pb2_grpc
from tests.runtime.pki import Authority

QUICK = Retry(attempts=4, first_s=0.01, longest_s=0.05)
BUSY = errors.OverloadedError("full", 0.02)


class Scripted(ner_pb2_grpc.NerServiceServicer):
    """Answers each text by its length. `faults` are raised before, one a call or item; then all is well."""

    def __init__(self) -> None:
        self.faults: list[Exception] = []
        self.stream_faults: list[int] = []  # a stream breaks after so many answers
        self.seen: list[str] = []
        self.metadata: list[dict[str, Any]] = []
        self.open = self.most_open = 0
        self.hold = threading.Event()
        self.hold.set()

    def Recognize(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.metadata.append(dict(context.invocation_metadata()))
        self.seen.append(request.text)
        self.hold.wait(10)
        if self.faults:
            context.abort_with_status(rpc_status.to_status(to_status(self.faults.pop(0))))
        return self._answer(request)

    def BatchRecognize(self, request: Any, context: Any) -> Any:  # noqa: N802
        return ner_pb2.BatchRecognizeResponse(items=[self._item(item) for item in request.items])

    def StreamRecognize(self, requests: Any, context: Any) -> Any:  # noqa: N802
        left = self.stream_faults.pop(0) if self.stream_faults else -1
        for one in requests:
            if left == 0:
                unavailable = errors.UnavailableError("STOPPING", "going down", 0.01)
                context.abort_with_status(rpc_status.to_status(to_status(unavailable)))
            left -= 1
            item = self._item(one.request)
            if item.HasField("error"):
                yield ner_pb2.StreamRecognizeResponse(id=one.id, error=item.error)
            else:
                yield ner_pb2.StreamRecognizeResponse(id=one.id, response=item.response)

    def ListDomains(self, request: Any, context: Any) -> Any:  # noqa: N802
        return ner_pb2.ListDomainsResponse(domains=[ner_pb2.Domain(name="维修", types=["EQUIP"])])

    def _item(self, request: Any) -> Any:
        self.seen.append(request.text)
        if self.faults:
            return ner_pb2.BatchItem(error=to_status(self.faults.pop(0)))
        return ner_pb2.BatchItem(response=self._answer(request))

    def _answer(self, request: Any) -> Any:
        entity = ner_pb2.Entity(start=0, end=len(request.text), type="T", text=request.text)
        return ner_pb2.RecognizeResponse(entities=[entity], domain="维修")


@contextmanager
def scripted(credentials: grpc.ServerCredentials | None = None) -> Iterator[tuple[Scripted, str]]:
    servicer, server = Scripted(), grpc.server(ThreadPoolExecutor(8))
    ner_pb2_grpc.add_NerServiceServicer_to_server(servicer, server)
    where = "localhost:0"
    port = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
    server.start()
    try:
        yield servicer, f"localhost:{port}"
    finally:
        servicer.hold.set()
        server.stop(0).wait()


@pytest.fixture
def server() -> Iterator[tuple[Scripted, str]]:
    with scripted() as running:
        yield running


class Both:
    """The asynchronous client with the other's face, so that each test is of both."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._arguments, self._options = arguments, options

    def __enter__(self) -> Both:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        async def run(*arguments: Any, **options: Any) -> Any:
            async with AsyncClient(*self._arguments, **self._options) as client:
                made = getattr(client, name)(*arguments, **options)
                return [one async for one in made] if name == "recognize_stream" else await made

        return lambda *arguments, **options: asyncio.run(run(*arguments, **options))


@pytest.fixture(params=[Client, Both], ids=["threads", "asyncio"])
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_what_is_busy_or_loading_is_called_again_no_sooner_than_told(make: Any, server: tuple[Scripted, str]) -> None:
    servicer, where = server
    servicer.faults = [errors.OverloadedError("full", 0.1), errors.UnavailableError("LOADING", "wait", 0.1)]
    begin = time.monotonic()
    with make(where, retry=QUICK) as client:
        assert client.recognize("换泵").entities[0].end == 2
    assert len(servicer.seen) == 3 and time.monotonic() - begin >= 0.2


REFUSALS = [
    (errors.InvalidRequestError("text", "bad"), errors.RequestRefusedError, "INVALID_FIELD"),
    (errors.UnknownDomainError("x", ["y"]), errors.RequestRefusedError, "UNKNOWN_DOMAIN"),
    (errors.CredentialsMissingError("who"), errors.AccessDeniedError, "CREDENTIALS_MISSING"),
    (errors.PermissionDeniedError("admin"), errors.AccessDeniedError, "SCOPE_MISSING"),
    (errors.DeadlineError("late"), errors.DeadlineExceededError, "DEADLINE"),
    (RuntimeError("broken"), errors.ServerError, "INTERNAL"),
]


@pytest.mark.parametrize(("fault", "kind", "reason"), REFUSALS, ids=[case[2] for case in REFUSALS])
def test_nothing_else_is_called_again_and_the_error_is_typed(
    make: Any, server: tuple[Scripted, str], fault: Exception, kind: type[errors.ServerError], reason: str
) -> None:
    servicer, where = server
    servicer.faults = [fault, fault]
    with make(where, retry=QUICK) as client, pytest.raises(errors.ServerError) as caught:
        client.recognize("换泵")
    assert type(caught.value) is kind and caught.value.reason == reason and len(servicer.seen) == 1
    assert caught.value.fields == ({"text": "bad"} if reason == "INVALID_FIELD" else {})


def test_tries_end_with_the_policy_and_with_the_deadline(make: Any, server: tuple[Scripted, str]) -> None:
    servicer, where = server
    servicer.faults = [BUSY] * 100
    with make(where, retry=QUICK) as client, pytest.raises(errors.TryAgainError):
        client.recognize("换泵")
    assert len(servicer.seen) == QUICK.attempts
    servicer.faults = [errors.OverloadedError("full", 30)]
    begin = time.monotonic()
    with make(where, 1.0, retry=QUICK) as client, pytest.raises(errors.TryAgainError) as caught:
        client.recognize("换泵")
    assert time.monotonic() - begin < 1.0 and caught.value.retry_after_s == 30
    servicer.hold.clear()
    with make(where, 0.2, retry=QUICK) as client, pytest.raises(errors.DeadlineExceededError):
        client.recognize("换泵")


def test_those_sent_away_together_do_not_come_back_together() -> None:
    waits = [Tries(Retry(), None).wait_s(errors.TryAgainError("UNAVAILABLE", "", retry_after_s=1.0)) for _ in range(50)]
    assert all(1 <= wait <= 2 for wait in waits) and max(waits) - min(waits) > 0.3


def test_of_a_batch_only_the_items_that_were_busy_are_sent_again(make: Any, server: tuple[Scripted, str]) -> None:
    servicer, where = server
    servicer.faults = [BUSY, errors.InvalidRequestError("text", "bad")]
    with make(where, retry=QUICK) as client:
        one, two, three = client.recognize_batch(["a", "bb", "ccc"])
    assert (one.entities[0].end, three.entities[0].end) == (1, 3)
    assert isinstance(two, errors.RequestRefusedError)
    assert Counter(servicer.seen) == {"a": 2, "bb": 1, "ccc": 1}


def test_a_stream_outlives_broken_connections_and_busy_moments(make: Any, server: tuple[Scripted, str]) -> None:
    servicer, where = server
    servicer.stream_faults = [0, 5, 17]
    servicer.faults = [BUSY, BUSY]
    texts = [("same id", "x" * (index + 1)) for index in range(60)]
    with make(where, retry=QUICK, window=8) as client:
        found = list(client.recognize_stream(texts))
    assert sorted(result.entities[0].end for _, result in found) == list(range(1, 61))
    assert {id_ for id_, _ in found} == {"same id"}


def test_a_stream_that_cannot_go_on_raises_and_so_does_reading_the_texts(
    make: Any, server: tuple[Scripted, str]
) -> None:
    def texts() -> Iterator[tuple[str, str]]:
        yield "1", "a"
        raise LookupError("no more disk")

    servicer, where = server
    with make(where, retry=QUICK) as client, pytest.raises(LookupError, match="disk"):
        list(client.recognize_stream(texts()))
    servicer.stream_faults = [0] * 10
    with make(where, retry=QUICK) as client, pytest.raises(errors.TryAgainError):
        list(client.recognize_stream([("1", "a")]))


def test_a_stream_reads_no_further_ahead_than_its_window(server: tuple[Scripted, str]) -> None:
    read = 0

    def texts() -> Iterator[tuple[str, str]]:
        nonlocal read
        for read in range(1, 1001):
            yield str(read), "a"

    with Client(server[1], window=4) as client:
        answers = client.recognize_stream(texts())
        for taken in range(1, 20):
            next(answers)
            time.sleep(0.005)
            assert read <= taken + 4
        answers.close()  # type: ignore[attr-defined]


def test_a_stream_answers_while_its_texts_are_slow_to_come(server: tuple[Scripted, str]) -> None:
    async def go() -> list[str]:
        got = asyncio.Queue[str]()

        async def texts() -> AsyncIterator[tuple[str, str]]:
            for id_ in "abc":
                yield id_, "x"
                assert await asyncio.wait_for(got.get(), 10) == id_

        async with AsyncClient(server[1]) as client:
            ids = []
            async for id_, _ in client.recognize_stream(texts()):
                ids.append(id_)
                got.put_nowait(id_)
            return ids

    assert asyncio.run(go()) == ["a", "b", "c"]


def test_what_no_message_can_hold_is_told_before_it_is_sent(make: Any, server: tuple[Scripted, str]) -> None:
    with make(server[1]) as client:
        with pytest.raises(errors.DataError, match="surrogate at character 1"):
            client.recognize("泵\ud800")
        with pytest.raises(errors.DataError, match="SOMETIMES"):
            client.recognize("泵", llm_mode="sometimes")
    assert server[0].seen == []


def test_tls_mutual_tls_and_tokens(make: Any, tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    pair, own, strange = authority.issue("server"), authority.issue("client"), stranger.issue("strange")
    credentials = grpc.ssl_server_credentials([pair.bytes], authority.certificate.read_bytes(), True)
    with scripted(credentials) as (servicer, where):
        known: dict[str, Any] = {"ca": authority.certificate}
        mine: dict[str, Any] = {"certificate": own.certificate, "key": own.key}
        told = Connection(where, **known, **mine, token="s3cret", version="v2")
        with make(told) as client:
            assert client.recognize("泵").entities
        assert servicer.metadata[-1]["authorization"] == "Bearer s3cret"
        assert servicer.metadata[-1]["smallm-bundle-version"] == "v2" and "s3cret" not in repr(told)
        with make(
            Connection(where.replace("localhost", "127.0.0.1"), **known, **mine, server_name="localhost")
        ) as client:
            assert client.recognize("泵").entities
        for refused in (
            Connection(where, **known),
            Connection(where, **known, certificate=strange.certificate, key=strange.key),
            Connection(where, ca=stranger.certificate, **mine),
            Connection(where, **known, **mine, server_name="else"),
            Connection(where),
        ):
            with make(refused, retry=Retry(attempts=1)) as client, pytest.raises(errors.TryAgainError):
                client.recognize("泵")
        assert len(servicer.seen) == 2


def test_a_token_does_not_travel_in_the_open(tmp_path: Path) -> None:
    with pytest.raises(errors.DataError, match="unencrypted"):
        Connection("10.0.0.1:50051", token="t")
    assert Connection("127.0.0.1:50051", token="t").metadata and Connection("10.0.0.1:50051", tls=True, token="t")
    with pytest.raises(errors.DataError, match="printable"):
        Connection("localhost:1", token="two\nlines")
    with pytest.raises(errors.DataError, match="key"):
        Connection("localhost:1", certificate=tmp_path / "c")
    with pytest.raises(errors.DataError, match="cannot be read"):
        Client(Connection("localhost:1", ca=tmp_path / "none"))
