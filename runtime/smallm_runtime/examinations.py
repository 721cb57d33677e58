"""What `smallm doctor` looks at. Each examination yields what it finds and may raise what the server would."""

from __future__ import annotations

import ctypes
import platform
import resource
import shutil
import socket
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

import onnxruntime

from smallm import bundle
from smallm.errors import LoadError
from smallm.llm.settings import NO_KEY, EndpointSettings
from smallm.llm.store import open_store
from smallm_runtime import credentials, loading
from smallm_runtime.sessions import PROVIDERS, available_cpus
from smallm_runtime.settings import Settings, is_local
from smallm_runtime.tokens import Scope, read

SOON = timedelta(days=30)
_FILES_BESIDE = 100  # of a process: libraries, stores, logs
_LOW_BYTES = 200 << 20
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_ASK_S = 5.0


class Level(StrEnum):
    """How bad."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True)
class Finding:
    """What was looked at, what is so, and how to mend it."""

    level: Level
    subject: str
    message: str
    mend: str = ""


def _ok(subject: str, message: str) -> Finding:
    return Finding(Level.OK, subject, message)


def _warning(subject: str, message: str, mend: str) -> Finding:
    return Finding(Level.WARNING, subject, message, mend)


def _failure(subject: str, message: str, mend: str) -> Finding:
    return Finding(Level.FAILURE, subject, message, mend)


def machine(settings: Settings) -> Iterator[Finding]:
    """Processor, provider, memory, open files."""
    cpus, flags = available_cpus(), _cpu_flags()
    yield _ok("machine", f"{platform.machine()}, {cpus} CPUs for this process, onnxruntime {onnxruntime.__version__}")
    if platform.machine() == "x86_64" and flags and not flags & {"avx512_vnni", "avx_vnni"}:
        yield _warning("machine", "the CPU has no VNNI: int8 graphs are slow here", "measure fp32 as well")
    if settings.threads and settings.threads > cpus:
        yield _warning(
            "machine", f"threads = {settings.threads} on {cpus} CPUs", "leave threads out: it then follows the quota"
        )
    provider = PROVIDERS[settings.device]
    if provider not in onnxruntime.get_available_providers():
        yield _failure("machine", f"this onnxruntime has no {provider}", "install smallm[gpu] in place of smallm[cpu]")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < settings.limits.connections + _FILES_BESIDE:
        yield _warning(
            "machine",
            f"{soft} open files allowed, {settings.limits.connections} connections configured",
            f"raise LimitNOFILE (ulimit -n) by {settings.limits.connections + _FILES_BESIDE - soft}",
        )
    free = _available_memory()
    if free is not None and free < _LOW_BYTES:
        yield _warning("machine", f"{free >> 20} MB of memory are free", "a server needs some 200 MB and its bundle")


def clock(settings: Settings) -> Iterator[Finding]:
    """A wrong clock makes good certificates bad and tokens expire at the wrong time."""
    newest = max((file.stat().st_mtime for file in _files(settings)), default=0.0)
    now = time.time()
    if newest > now + 300:
        yield _failure(
            "clock",
            f"it says {_day(now)}, but the bundle was written {_day(newest)}",
            "set the clock; certificates and tokens depend on it",
        )
    elif _unsynchronised():
        yield _warning(
            "clock", f"{_day(now)}, not synchronised", "run chrony or systemd-timesyncd, with a source on site"
        )
    else:
        yield _ok("clock", f"{_day(now)}")


def bundles(settings: Settings) -> Iterator[Finding]:
    """Everything that the server does before it serves one."""
    for folder in (settings.bundle, *settings.beside):
        begin = time.monotonic()
        try:
            found = folder.resolve()
            engine = loading.load(
                found,
                loading.fingerprint(found),
                settings.threads,
                settings.device,
                settings.trusted_keys,
                settings.profile,
            )
        except LoadError as error:
            yield _failure("bundle", f"{error.reason}: {error}", "copy it again from where it was exported and signed")
            continue
        size = bundle.size(found) / 1e6
        told = f"{found}: {size:.1f} MB, domains {', '.join(engine.domains)}; loads and answers"
        yield _ok("bundle", f"{told} ({time.monotonic() - begin:.1f} s)")
        if not settings.require_signature:
            yield _warning("bundle", "no signature is asked for", "smallm bundle sign, require_signature, trusted_keys")


def certificates(settings: Settings) -> Iterator[Finding]:
    """As the server reads them, and how long they last."""
    tls = settings.tls
    if not tls.certificate:
        if not is_local(settings.listen):
            yield _warning("certificate", f"{settings.listen} is not encrypted", "give tls.certificate and tls.key")
        else:
            yield _ok("certificate", "none; only this machine can connect")
        return
    found = credentials.load(tls)
    for name, ends in (("certificate", found.ends), ("client_ca", found.client_ca_ends)):
        if ends is None:
            continue
        left = ends - datetime.now(UTC)
        if left <= timedelta(0):
            yield _failure("certificate", f"tls.{name} ended {ends:%Y-%m-%d}", "get a new one")
        elif left < SOON:
            yield _warning("certificate", f"tls.{name} ends {ends:%Y-%m-%d}", "replace the files; no restart is needed")
        else:
            yield _ok("certificate", f"tls.{name} is good until {ends:%Y-%m-%d}")
    if tls.key and tls.key.stat().st_mode & stat.S_IROTH:
        yield _warning("certificate", f"everybody on this machine can read {tls.key}", f"chmod o-r {tls.key}")


def tokens(settings: Settings) -> Iterator[Finding]:
    """Whether anybody can call, and anybody who should not could let himself in."""
    path = settings.auth.tokens
    if path is None:
        if not settings.only_this_machine and settings.tls.client_ca is None:
            yield _warning("tokens", "whoever reaches the port may call", "auth.tokens, from `smallm token new`")
        return
    known, now = read(path), datetime.now(UTC)
    good = [token for token in known if not token.expired(now)]
    if not any(Scope.RECOGNISE in token.scopes for token in good):
        yield _failure("tokens", f"{path}: no valid token may recognise", "smallm token new NAME --scope recognise")
    for token in known:
        if token.expired(now):
            yield _warning("tokens", f"'{token.name}' has expired", f"smallm token revoke {token.name} --file {path}")
        elif token.expires and token.expires - now < SOON:
            yield _warning("tokens", f"'{token.name}' expires {token.expires:%Y-%m-%d}", "give its owner a new one")
    if path.stat().st_mode & stat.S_IWOTH:
        yield _failure("tokens", f"everybody on this machine can add a token to {path}", f"chmod o-w {path}")
    yield _ok("tokens", f"{len(good)} valid")


def network(settings: Settings) -> Iterator[Finding]:
    """Whether the addresses can be had."""
    for name, address in (("listen", settings.listen), ("metrics", settings.metrics)):
        if not address or address.startswith("unix:"):
            continue
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, int(port)))
            except OSError as error:
                told = f"{name} = {address}: {error.strerror}"
                yield _warning("network", told, "fine if the server is running; else free the port")
            else:
                yield _ok("network", f"{name} = {address} is free")
        if name == "metrics" and not is_local(address):
            yield _warning("network", f"metrics on {address} are plain HTTP for everybody", "127.0.0.1, or a firewall")


def store(settings: Settings) -> Iterator[Finding]:
    """Whether answers can be remembered."""
    address = settings.bridge.store
    if not address:
        return
    opened = open_store(address, settings.bridge.memory.max_megabytes << 20)
    try:
        found = opened.stats()
        claimed = opened.claim("doctor", "doctor", 1.0)  # writes
        if claimed:
            opened.release("doctor", "doctor")
    finally:
        opened.close()
    yield _ok("store", f"{found.replies} replies, {found.bytes / 1e6:.1f} MB, can be written")
    if "://" not in address:
        free = shutil.disk_usage(Path(address).parent).free
        if free < settings.bridge.memory.max_megabytes << 20:
            yield _warning(
                "store",
                f"{free >> 20} MB of disk are free, the store may grow to {settings.bridge.memory.max_megabytes} MB",
                "free some, or lower llm.memory.max_megabytes",
            )


def llm(settings: Settings) -> Iterator[Finding]:
    """Whether endpoints answer; the list of models costs nothing."""
    for index, endpoint in enumerate(settings.bridge.endpoint):
        yield _asked(f"llm.endpoint[{index}]", endpoint)


def _asked(subject: str, endpoint: EndpointSettings) -> Finding:
    from openai import APIConnectionError, APIStatusError, OpenAI, OpenAIError

    key = endpoint.api_key()
    client = OpenAI(base_url=endpoint.url, api_key=key, timeout=_ASK_S, max_retries=0)
    try:
        names = [model.id for model in client.models.list().data or ()]
    except APIStatusError as error:
        if error.status_code in (401, 403):
            origin = endpoint.key_file or endpoint.key_env
            told = f"refuses {'the lack of a key' if key == NO_KEY else 'the key'}"
            return _warning(subject, f"{endpoint.url} {told}", f"put a valid one into {origin}")
        if error.status_code == 404:
            return _ok(subject, f"{endpoint.url} answers; it lists no models")
        return _warning(subject, f"{endpoint.url} answers {error.status_code}", "look at its log")
    except APIConnectionError as error:
        cause = type(error.__cause__ or error).__name__
        return _warning(subject, f"{endpoint.url} is silent ({cause})", "is it running? address, firewall, proxy")
    except (OpenAIError, ValueError, AttributeError, TypeError) as error:
        return _warning(subject, f"{endpoint.url} answers nonsense ({type(error).__name__})", "is the address right?")
    finally:
        client.close()
    if names and endpoint.model not in names:
        known = ", ".join(names[:5])
        return _warning(subject, f"{endpoint.url} has no model '{endpoint.model}'", f"llm.endpoint.model: {known}")
    return _ok(subject, f"{endpoint.url} answers")


def collector(settings: Settings) -> Iterator[Finding]:
    """Whether spans can be sent."""
    if settings.otel and find_spec("opentelemetry") is None:
        yield _failure("otel", "opentelemetry is not installed", "pip install 'smallm[otel]'")


def _files(settings: Settings) -> list[Path]:
    return [file for file in settings.bundle.rglob("*") if file.is_file()] if settings.bundle.is_dir() else []


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _unsynchronised() -> bool:
    """Linux: what the kernel was told by whatever keeps the time."""
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None) if sys.platform == "linux" else None
    return adjtimex is not None and adjtimex(ctypes.create_string_buffer(512)) == _TIME_ERROR  # no mode: reads only


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def _available_memory() -> int | None:
    """Bytes, as the kernel estimates; a container's limit may be lower."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)
