"""All a server can be told. A field's docstring is its flag's help and its row in docs/operations.md."""

from __future__ import annotations

import ipaddress
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AliasChoices,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass

from smallm.configuration import DATACLASS, Section
from smallm.llm.settings import BridgeSettings
from smallm_runtime.sessions import PROVIDERS


class Tls(Section):
    """Encryption. The files are looked at again at every handshake: replace them and new connections use them."""

    certificate: Path | None = None
    """The server's certificate chain, PEM, its own first. With it the server speaks TLS only."""
    key: Path | None = None
    """The certificate's private key, unencrypted PEM."""
    client_ca: Path | None = None
    """Mutual TLS: clients must show a certificate from one of the authorities in this PEM file."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("give certificate and key together")
        if self.client_ca and not self.certificate:
            raise ValueError("client_ca needs a certificate and key of the server's own")
        return self


class Auth(Section):
    """Who may call what."""

    tokens: Path | None = None
    """File of bearer tokens, from `smallm token new`; read again when it changes. With it every call needs a token."""
    open_health: bool = True
    """Answer health checks without a token: load balancers have none, and it says no more than serving or not."""


class Limits(Section):
    """What is refused however it is asked."""

    message_bytes: PositiveInt = 4 << 20
    """Largest message received; a code point takes up to four bytes of it."""
    text: PositiveInt = 1_000_000
    """Longest text, in code points."""
    batch_items: PositiveInt = 256
    """Most texts of one call."""
    batch_text: PositiveInt = 1_040_000
    """Longest texts of one call together, in code points."""
    queue_texts: PositiveInt = 512
    """Most texts that wait for the engine; one more is refused with RESOURCE_EXHAUSTED."""
    queue_tokens: PositiveInt = 65_536
    """Most that they are together, in code points. Texts longer than a round have a bound of their own."""
    in_flight: PositiveInt = 64
    """Texts of one stream worked on at a time; the server reads no further."""
    calls: PositiveInt = 1000
    """Calls running at a time, of all clients. One more is refused with RESOURCE_EXHAUSTED."""
    streams: PositiveInt = 100
    """Of those, StreamRecognize calls and watches of health."""
    connection_calls: PositiveInt = 100
    """Calls running at a time on one connection; a client's further calls wait."""
    connections: PositiveInt = 1000
    """Connections at a time; one more is closed at once."""
    handshake_s: PositiveFloat = 10.0
    """How long a client may take to become a connection."""
    idle_s: PositiveFloat = 900.0
    """A connection without a call for so long is closed."""


class LogFormat(StrEnum):
    """How a line of the log looks."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """What is left out below."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Log(Section):
    """The log on standard error. No text of a request is ever in it."""

    format: LogFormat = LogFormat.TEXT
    """text, or json: one object a line."""
    level: LogLevel = LogLevel.INFO
    """debug, info, warning or error."""
    calls: bool = True
    """A line a call: method, code, reason, milliseconds, request id, the token's name."""


@dataclass(frozen=True, config=DATACLASS)
class Settings:
    """What `smallm serve` was told."""

    bundle: Path
    """Bundle folder from export-onnx. A symlink to one may be switched: it is followed anew at every reload."""
    listen: str = "127.0.0.1:50051"
    """HOST:PORT to listen on, or unix:PATH; port 0 takes a free one."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Threads of the encoder, one round at a time; by default what suits it and the CPUs the process may use."""
    device: str = "cpu"
    """cpu or cuda."""
    variant: str = ""
    """Which of the bundle's variants to run: fp32, int8 or fp16; by default int8 on a CPU and fp16 on CUDA."""
    profile: Path | None = None
    """What `smallm tune` measured; by default the file beside the bundle's folder, where there is one."""
    cache_mb: NonNegativeInt = 32
    """Memory for answers given lately, by text and LLM part; 0 remembers none."""
    metrics: str = ""
    """HOST:PORT for Prometheus, plain HTTP; empty for none."""
    bridge: BridgeSettings = Field(default=BridgeSettings(), validation_alias=AliasChoices("llm", "bridge"))
    """The LLM: docs/bridge.md."""
    beside: tuple[Path, ...] = ()
    """Further bundles, served to those who ask for them by name."""
    notice_s: NonNegativeFloat = 0.5
    """At a stop: how long the server says so before it refuses calls."""
    grace_s: NonNegativeFloat = 10.0
    """At a stop: how long running calls may take to end."""
    insecure_network: bool = False
    """Listen without TLS on an address that others reach. Only where something else encrypts or nobody listens."""
    reflection: bool = True
    """Offer gRPC reflection (grpcurl); with tokens, to those with the scope recognise."""
    require_signature: bool = False
    """Take no bundle that is not signed by one of trusted_keys."""
    trusted_keys: tuple[Path, ...] = ()
    """Public keys, from `smallm bundle keygen`."""
    tls: Tls = Tls()
    auth: Auth = Auth()
    limits: Limits = Limits()
    log: Log = Log()
    otel: str = ""
    """OpenTelemetry collector, as http://HOST:4317 (OTLP through gRPC); needs smallm[otel]. Empty for none."""

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if device not in PROVIDERS:
            raise ValueError(f"must be one of {', '.join(PROVIDERS)}")
        return device

    @field_validator("listen", "metrics")
    @classmethod
    def _an_address(cls, address: str) -> str:
        if address and not re.fullmatch(r"\S+:\d{1,5}|unix:.+", address):
            raise ValueError("must be HOST:PORT")
        return address

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if self.tls.certificate is None and not self.insecure_network and not is_local(self.listen):
            raise ValueError(
                f"listen = {self.listen} without TLS can be read and altered on the way; give tls.certificate and "
                "tls.key, listen on 127.0.0.1 behind a proxy, or say insecure_network = true"
            )
        if self.require_signature != bool(self.trusted_keys):
            raise ValueError("give require_signature and trusted_keys together")
        return self

    @property
    def only_this_machine(self) -> bool:
        """Whether nobody but this machine's users can call, so that nothing has to be kept from callers."""
        return is_local(self.listen) and self.auth.tokens is None and self.tls.client_ca is None


def is_local(address: str) -> bool:
    """Whether only this machine can reach an address to listen on."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: whoever resolves it decides
        return False
