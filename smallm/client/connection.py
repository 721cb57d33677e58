"""How a server is reached: address, TLS, who the caller is."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc

from smallm.errors import DataError

TOKEN_VARIABLE = "SMALLM_TOKEN"
_LOOPBACK = ("localhost", "127.", "[::1]", "::1", "unix:")
_OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),  # the entities of a full batch
    ("grpc.keepalive_time_ms", 30_000),  # a stream has no deadline: a server that is gone without a word is noticed
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5000),  # gRPC's own two minutes are long for a server that was restarted
]


@dataclass(frozen=True)
class Connection:
    """An address HOST:PORT and how to trust it. TLS is used if `tls`, `ca` or `certificate` is given.

    `ca` is a PEM file of authorities (by default gRPC's own), `certificate` and `key` are this client's own for mutual
    TLS, `server_name` is the name on the server's certificate where the address is another. `version` asks for one of
    several bundles. A `token` is sent over TLS or to this machine only.
    """

    address: str
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""
    token: str = field(default="", repr=False)
    version: str = ""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise DataError("a client certificate needs its key, and a key its certificate")
        if self.token and not (self.token.isascii() and self.token.isprintable()):
            raise DataError("the token must be printable ASCII, without a line end")
        if self.token and not self.encrypted and not self.address.startswith(_LOOPBACK):
            raise DataError(f"a token would go to {self.address} unencrypted; use TLS")

    @property
    def encrypted(self) -> bool:
        """Whether TLS is used."""
        return self.tls or self.ca is not None or self.certificate is not None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        token = (("authorization", f"Bearer {self.token}"),) if self.token else ()
        return token + ((("smallm-bundle-version", self.version),) if self.version else ())

    def open(self, module: ModuleType) -> Any:
        """A channel of `grpc` or of `grpc.aio`. Raises DataError if a file cannot be read."""
        if not self.encrypted:
            return module.insecure_channel(self.address, options=_OPTIONS)
        name = [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []
        credentials = grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))
        return module.secure_channel(self.address, credentials, options=_OPTIONS + name)


def token_from(file: Path | None) -> str:
    """The token in `file`, else in the environment's SMALLM_TOKEN, else ''. Raises DataError."""
    content = _read(file)
    return (content.decode("utf-8", "replace") if content is not None else os.environ.get(TOKEN_VARIABLE, "")).strip()


def _read(file: Path | None) -> bytes | None:
    try:
        return file.read_bytes() if file else None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", source=str(file)) from None
