"""TLS and mutual TLS whose certificates are replaced while the server runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from smallm.errors import ArtifactError
from smallm_runtime.settings import Tls
from smallm_runtime.watched import Watched


@dataclass(frozen=True)
class Certificates:
    """Checked content of the files. `ends` is when the server's certificate does."""

    configuration: Any
    ends: datetime
    client_ca_ends: datetime | None


class ServerTls:
    """What a handshake uses; asks `Watched` at every one."""

    def __init__(self, tls: Tls) -> None:
        """Raises ArtifactError naming the file."""
        paths = [path for path in (tls.certificate, tls.key, tls.client_ca) if path]
        self._watched = Watched(paths, lambda: load(tls))
        self._given = self._watched.get()
        self._mutual = tls.client_ca is not None

    @property
    def certificates(self) -> Certificates:
        """Those in force."""
        return self._watched.get()

    def credentials(self) -> grpc.ServerCredentials:
        """For `add_secure_port`."""
        return grpc.dynamic_ssl_server_credentials(
            self._given.configuration, self._fetch, require_client_authentication=self._mutual
        )

    def _fetch(self) -> Any:
        """grpc's question at a handshake; None is 'as before'."""
        found = self._watched.get()
        if found is self._given:
            return None
        self._given = found
        return found.configuration


def load(tls: Tls) -> Certificates:
    """Read and check what `tls` names. Raises ArtifactError naming the file and what is wrong with it."""
    assert tls.certificate and tls.key
    chain, key = _read(tls.certificate), _read(tls.key)
    certificates = _parse(tls.certificate, chain)
    try:
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError):
        raise ArtifactError(f"{tls.key}: no unencrypted private key in PEM") from None
    if _public(private.public_key()) != _public(certificates[0].public_key()):
        raise ArtifactError(f"{tls.key}: is not the key of the first certificate in {tls.certificate}")
    ends = certificates[0].not_valid_after_utc
    if ends <= datetime.now(UTC):
        raise ArtifactError(f"{tls.certificate}: expired on {ends:%Y-%m-%d}; get a new one")
    authority = _read(tls.client_ca) if tls.client_ca else None
    authority_ends = None
    if tls.client_ca and authority is not None:
        authority_ends = min(one.not_valid_after_utc for one in _parse(tls.client_ca, authority))
    configuration = grpc.ssl_server_certificate_configuration([(key, chain)], authority)
    return Certificates(configuration, ends, authority_ends)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from None


def _parse(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ArtifactError(f"{path}: no certificate in PEM") from None


def _public(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded
