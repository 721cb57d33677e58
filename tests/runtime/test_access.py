"""The auth matrix: every method of every service against everybody who should not get in, and those who should."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from smallm_runtime import tokens, watched
from smallm_runtime.access import Access, scope
from smallm_runtime.server import SERVICES
from smallm_runtime.settings import Auth, Settings
from smallm_runtime.tokens import Scope

from tests.runtime.methods import METHODS
from tests.runtime.pki import Authority, Pair
from tests.runtime.servers import serving

HEALTH = [method for method in METHODS if "Health" in method or method.endswith(("/ServerLive", "/ServerReady"))]
GUARDED = [method for method in METHODS if method not in HEALTH]


@dataclass(frozen=True)
class Site:
    """A tokens file and certificates of all kinds."""

    folder: Path
    ours: Authority
    theirs: Authority
    secrets: dict[str, str]
    client: Pair
    expired: Pair
    foreign: Pair

    @property
    def auth(self) -> Auth:
        return Auth(tokens=self.folder / "tokens.toml")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
    made = {
        "recognise": tokens.new("line", [Scope.RECOGNISE]),
        "admin": tokens.new("reloader", [Scope.ADMIN]),
        "both": tokens.new("both", [Scope.RECOGNISE, Scope.ADMIN]),
    }
    tokens.write(folder / "tokens.toml", [token for _, token in made.values()])
    secrets = {name: secret for name, (secret, _) in made.items()}
    clients = ours.issue("client"), ours.issue("expired", days=-1), theirs.issue("foreign")
    return Site(folder, ours, theirs, secrets, *clients)


def call(channel: grpc.Channel, method: str, *metadata: tuple[str, str]) -> tuple[str, str]:
    """Code and reason of a call with an empty message; the first answer is enough of a stream."""
    running: Any = channel.stream_stream(method, bytes, bytes)(iter([b""]), metadata=metadata, timeout=20)
    try:
        next(running, None)
        running.cancel()
        return "OK", ""
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
        info = error_details_pb2.ErrorInfo()
        return error.code().name, info.reason if status and status.details and status.details[0].Unpack(info) else ""


def bearer(secret: str) -> tuple[str, str]:
    return "authorization", f"Bearer {secret}"


def secure(address: str, authority: Authority, pair: Pair | None = None) -> grpc.Channel:
    key, certificate = pair.bytes if pair else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes(), key, certificate)
    return grpc.secure_channel(address, credentials)


@pytest.fixture(scope="module")
def guarded(site: Site, bundle_folder: Path) -> Iterator[str]:
    """Mutual TLS and tokens, on an address that counts as the network's."""
    told = Settings(bundle_folder, threads=1, auth=site.auth, tls=site.ours.server(mutual=True))
    with serving(told) as where:
        yield where


def test_the_matrix_has_every_method_of_every_service() -> None:
    found = {method.split("/")[1] for method in METHODS}
    assert {service.name for service in SERVICES} | {"grpc.health.v1.Health"} <= found
    assert any("ServerReflection" in name for name in found)
    assert len(GUARDED) >= 7 and HEALTH


def test_nobody_without_the_right_token_calls_anything_but_health(guarded: str, site: Site) -> None:
    with secure(guarded, site.ours, site.client) as channel:
        other, _ = tokens.new("line", [Scope.RECOGNISE, Scope.ADMIN])
        missing: list[list[tuple[str, str]]] = [[], [("x-token", site.secrets["both"])]]
        wrong = [
            [bearer(other)],
            [bearer("")],
            [bearer(site.secrets["both"][:-1])],
            [("authorization", site.secrets["both"])],
            [("authorization", f"Basic {site.secrets['both']}")],
            [bearer(other), bearer(site.secrets["both"])],
            [bearer(site.secrets["both"]), bearer(other)],
        ]
        for method in GUARDED:
            for shown in missing:
                assert call(channel, method, *shown) == ("UNAUTHENTICATED", "CREDENTIALS_MISSING"), method
            for shown in wrong:
                assert call(channel, method, *shown) == ("UNAUTHENTICATED", "CREDENTIALS_REJECTED"), method
            unfit = "recognise" if scope(method) is Scope.ADMIN else "admin"
            assert call(channel, method, bearer(site.secrets[unfit])) == ("PERMISSION_DENIED", "SCOPE_MISSING"), method
        for method in HEALTH:
            assert call(channel, method)[0] == "OK"


def test_who_has_the_right_token_gets_through(guarded: str, site: Site) -> None:
    with secure(guarded, site.ours, site.client) as channel:
        for method in METHODS:
            for name in (str(scope(method)), "both"):
                assert call(channel, method, bearer(site.secrets[name]))[0] not in (
                    "UNAUTHENTICATED",
                    "PERMISSION_DENIED",
                )
        assert call(channel, "/smallm.ner.v1.NerService/ListDomains", bearer(site.secrets["recognise"])) == ("OK", "")
        assert call(channel, "/smallm.admin.v1.AdminService/GetStatus", bearer(site.secrets["admin"])) == ("OK", "")


def test_a_method_that_is_none_tells_a_stranger_nothing(guarded: str, site: Site) -> None:
    with secure(guarded, site.ours, site.client) as channel:
        for method in ("/smallm.ner.v1.NerService/None", "/other.Service/None"):
            assert call(channel, method) == ("UNAUTHENTICATED", "CREDENTIALS_MISSING")
        known = bearer(site.secrets["both"])
        assert call(channel, "/smallm.ner.v1.NerService/None", known) == ("UNIMPLEMENTED", "UNKNOWN_METHOD")
        only = bearer(site.secrets["recognise"])
        assert call(channel, "/other.Service/None", only) == ("PERMISSION_DENIED", "SCOPE_MISSING")


@pytest.mark.parametrize("who", ["expired", "foreign", "without", "foreign authority", "plaintext"])
def test_nobody_without_a_good_certificate_reaches_any_method(guarded: str, site: Site, who: str) -> None:
    channels = {
        "expired": lambda: secure(guarded, site.ours, site.expired),
        "foreign": lambda: secure(guarded, site.ours, site.foreign),
        "without": lambda: secure(guarded, site.ours),
        "foreign authority": lambda: secure(guarded, site.theirs, site.client),  # the client's own refusal
        "plaintext": lambda: grpc.insecure_channel(guarded),
    }
    with channels[who]() as channel:
        for method in METHODS:
            code, reason = call(channel, method, bearer(site.secrets["both"]))
            assert (code, reason) == ("UNAVAILABLE", ""), method


def test_without_tokens_only_this_machine_may_administer(site: Site, bundle_folder: Path, tmp_path: Path) -> None:
    admin = [method for method in METHODS if scope(method) is Scope.ADMIN]
    assert admin
    for told in (
        Settings(tmp_path, "0.0.0.0:1", tls=site.ours.server()),
        Settings(tmp_path, "127.0.0.1:1", tls=site.ours.server(mutual=True)),
        Settings(tmp_path, "0.0.0.0:1", insecure_network=True),
    ):
        access = Access(told)
        for method in METHODS:
            guarded = pytest.raises(Exception, match="scope 'admin'") if method in admin else contextlib.nullcontext()
            with guarded:
                access.check(method, [])
    for method in METHODS:
        assert Access(Settings(tmp_path, "127.0.0.1:1")).check(method, []) == ""


def test_health_may_be_closed_too(site: Site, tmp_path: Path) -> None:
    told = Settings(tmp_path, "127.0.0.1:1", auth=Auth(tokens=site.folder / "tokens.toml", open_health=False))
    for method in HEALTH:
        with pytest.raises(Exception, match="bearer token"):
            Access(told).check(method, [])
        assert Access(told).check(method, [bearer(site.secrets["recognise"])]) == "line"


def test_no_reflection_where_it_is_switched_off(bundle_folder: Path) -> None:
    method = next(method for method in METHODS if "Reflection" in method)
    with (
        serving(Settings(bundle_folder, threads=1, reflection=False)) as where,
        grpc.insecure_channel(where) as channel,
    ):
        assert call(channel, method) == ("UNIMPLEMENTED", "UNKNOWN_METHOD")


def test_a_token_is_rotated_and_a_certificate_replaced_while_calls_go_on(
    site: Site, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "EVERY_S", 0.0)
    from cryptography import x509

    method = "/smallm.ner.v1.NerService/ListDomains"
    first, second = tokens.new("a", [Scope.RECOGNISE]), tokens.new("b", [Scope.RECOGNISE])
    tokens.write(tmp_path / "t", [first[1]])
    tls = Authority(tmp_path, "new").server("both")
    old = site.ours.issue("old")
    assert tls.certificate and tls.key
    new = tls.certificate.read_bytes(), tls.key.read_bytes()
    tls.certificate.write_bytes(old.certificate.read_bytes())
    tls.key.write_bytes(old.key.read_bytes())
    told = Settings(bundle_folder, threads=1, tls=tls, auth=Auth(tokens=tmp_path / "t"))
    with serving(told) as where, secure(where, site.ours) as channel:
        assert call(channel, method, bearer(first[0]))[0] == "OK"
        tokens.write(tmp_path / "t", [second[1]])
        assert call(channel, method, bearer(first[0]))[0] == "UNAUTHENTICATED"
        assert call(channel, method, bearer(second[0]))[0] == "OK"
        tls.certificate.write_bytes(new[0])  # half of it: the old pair stays
        with secure(where, site.ours) as another:
            assert call(another, method, bearer(second[0]))[0] == "OK"
        tls.key.write_bytes(new[1])
        authority = (tmp_path / "new.pem").read_bytes()
        with grpc.secure_channel(where, grpc.ssl_channel_credentials(authority)) as another:
            assert call(another, method, bearer(second[0]))[0] == "OK"
        with grpc.secure_channel(where, grpc.ssl_channel_credentials(old.certificate.read_bytes())) as another:
            assert call(another, method, bearer(second[0]))[0] == "UNAVAILABLE"
        assert call(channel, method, bearer(second[0]))[0] == "OK"  # a connection goes on as it was made
    assert (
        x509.load_pem_x509_certificate(new[0]).issuer
        != x509.load_pem_x509_certificate(old.certificate.read_bytes()).issuer
    )


def test_scopes_are_a_matter_of_the_method_alone() -> None:
    assert {scope(method) for method in METHODS} == {Scope.RECOGNISE, Scope.ADMIN}
    assert scope("/anything.Else/AtAll") is Scope.ADMIN and scope("") is Scope.ADMIN
    for method, other in itertools.product(METHODS, ("/smallm.nerx", "/smallm.admin.v1.AdminService/Reload")):
        assert scope(other) is Scope.ADMIN or other != method
