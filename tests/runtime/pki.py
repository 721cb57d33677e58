"""Certificates for tests: authorities, servers and clients, good, foreign and expired."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from smallm_runtime.settings import Tls


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, on disk."""

    certificate: Path
    key: Path

    @property
    def bytes(self) -> tuple[bytes, bytes]:
        """(key, certificate), as grpc wants them."""
        return self.key.read_bytes(), self.certificate.read_bytes()


class Authority:
    """Issues certificates into a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = folder / f"{name}.pem"
        own = self._build(self._name, self._key.public_key(), days=10, ca=True).sign(self._key, hashes.SHA256())
        self.certificate.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, days: int = 10) -> Pair:
        """For localhost and 127.0.0.1, server and client use; `days` below 0 ended already."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signed = self._build(subject, key.public_key(), days, ca=False).sign(self._key, hashes.SHA256())
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        pair.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair

    def server(self, name: str = "server", mutual: bool = False) -> Tls:
        """Settings of a server with a certificate from here."""
        pair = self.issue(name)
        return Tls(certificate=pair.certificate, key=pair.key, client_ca=self.certificate if mutual else None)

    def _build(
        self, subject: x509.Name, public: ec.EllipticCurvePublicKey, days: int, ca: bool
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(public)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=30)).not_valid_after(now + timedelta(days=days))
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        if not ca:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
            builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        return builder
