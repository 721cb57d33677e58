"""Ed25519 signatures of a bundle (RFC 8032, by `cryptography`).

What is signed is the manifest, byte for byte. The manifest has the size and hash of every other file, so that a
good signature over it is one over the bundle. `manifest.sig` may hold several, one a key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from smallm import atomic
from smallm.errors import ArtifactError

FORMAT = 1
_CONTEXT = b"smallm bundle manifest v1\n"  # a signature made for something else is none for a bundle
_MAX_BYTES = 1 << 16
_RAW = serialization.Encoding.Raw, serialization.PublicFormat.Raw


def keygen(private: Path) -> Path:
    """Make a key pair: PKCS #8 PEM at `private` (mode 600), the public half at `private`.pub; its path.

    Raises ArtifactError if either is there already: a key that was overwritten cannot be had back.
    """
    public, key = private.with_name(private.name + ".pub"), Ed25519PrivateKey.generate()
    encoding = serialization.Encoding.PEM
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    told = key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    for path, content, mode in ((private, secret, 0o600), (public, told, 0o644)):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be written ({error.strerror}); no key is ever overwritten") from None
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
    return public


def key_id(key: Ed25519PublicKey) -> str:
    """How a key is named to people: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(key.public_bytes(*_RAW)).hexdigest()[:16]


def sign(manifest: bytes, private: Path, signatures: Path) -> str:
    """Add the signature of `manifest` to the file `signatures`; the key's id. Signatures of other content go."""
    key = _private(private)
    digest = hashlib.sha256(manifest).hexdigest()
    kept = _read(signatures) if signatures.is_file() else {}
    values = dict(kept["signatures"]) if kept.get("manifest") == digest else {}
    name = key_id(key.public_key())
    values[name] = base64.b64encode(key.sign(_CONTEXT + manifest)).decode()
    atomic.write_json(signatures, {"format": FORMAT, "manifest": digest, "signatures": values})
    return name


def verify(manifest: bytes, signatures: Path, trusted: Sequence[Path]) -> str:
    """The id of the trusted public key that signed `manifest`. Raises ArtifactError if none did."""
    if not signatures.is_file():
        raise ArtifactError(f"{signatures.parent}: not signed; `smallm bundle sign` signs it")
    values = _read(signatures)["signatures"]
    keys = {key_id(key): key for key in map(public_key, trusted)}
    signed = keys.keys() & values.keys()
    if not signed:
        raise ArtifactError(
            f"{signatures}: signed by {', '.join(sorted(values)) or 'nobody'}, trusted are {', '.join(sorted(keys))}"
        )
    for name in sorted(map(str, signed)):
        try:
            keys[name].verify(base64.b64decode(values[name], validate=True), _CONTEXT + manifest)
            return name
        except (InvalidSignature, binascii.Error):
            continue
    raise ArtifactError(
        f"{signatures}: the signature of {', '.join(sorted(signed))} is not of this manifest; the bundle was altered"
    )


def public_key(path: Path) -> Ed25519PublicKey:
    """A public key from PEM. Raises ArtifactError."""
    key = _pem(path, serialization.load_pem_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise ArtifactError(f"{path}: not an Ed25519 public key; `smallm bundle keygen` makes a pair")
    return key


def _private(path: Path) -> Ed25519PrivateKey:
    key = _pem(path, lambda pem: serialization.load_pem_private_key(pem, None))
    if not isinstance(key, Ed25519PrivateKey):
        raise ArtifactError(f"{path}: not an Ed25519 private key; `smallm bundle keygen` makes a pair")
    return key


def _pem(path: Path, load: Any) -> object:
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{path}: the key cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: a passphrase is asked for
        raise ArtifactError(f"{path}: not a key in unencrypted PEM; `smallm bundle keygen` makes a pair") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("too large")
        value = json.loads(path.read_text(encoding="utf-8"))
        named = isinstance(value["manifest"], str) and isinstance(value["signatures"], dict)
        if value["format"] != FORMAT or not named or not all(isinstance(v, str) for v in value["signatures"].values()):
            raise ValueError(f"not of format {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path}: no signatures can be read from it ({type(error).__name__}); sign again") from None
    return dict(value)
