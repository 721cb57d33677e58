"""Bearer tokens: random, stored as their hash, each with a name and scopes.

A token has 256 random bits, so that a plain SHA-256 keeps it: there is nothing to guess that a slow hash would
slow down, and a slow one would let anybody keep the server busy.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator

from smallm import atomic
from smallm.configuration import Section, Steps, checked, line_of, read_toml, to_toml
from smallm_runtime.watched import Watched

PREFIX = "smallm_"  # found by programs that look for secrets in the wrong place
_BYTES = 32


class Scope(StrEnum):
    """What a token is good for. Neither includes the other."""

    RECOGNISE = "recognise"
    ADMIN = "admin"


def _with_zone(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class Token(Section):
    """One line of access; the token itself is nowhere."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$")]
    """For the log and for revoking."""
    hash: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    """sha256: and the hexadecimal digest of the token."""
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    """recognise, admin or both."""
    expires: Annotated[datetime, AfterValidator(_with_zone)] | None = None
    """Not good any more from then on (UTC where no zone is given)."""

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires is not None and now >= self.expires


class _File(Section):
    token: tuple[Token, ...] = ()

    @field_validator("token")
    @classmethod
    def _distinct(cls, tokens: tuple[Token, ...]) -> tuple[Token, ...]:
        names = [token.name for token in tokens]
        if len(set(names)) < len(names):
            raise ValueError("two tokens have the same name")
        return tokens


def read(path: Path) -> tuple[Token, ...]:
    """A tokens file. Raises DataError naming line and field."""

    def where(steps: Steps) -> tuple[str, int]:
        return str(path), line_of(path.read_text(encoding="utf-8"), steps)

    return checked(_File.model_validate, read_toml(path), where).token


def write(path: Path, tokens: Sequence[Token]) -> None:
    """Replace a tokens file in one step."""
    entries = [token.model_dump(mode="json", exclude_none=True) for token in tokens]
    atomic.write_text(path, to_toml({"token": entries}))


def new(name: str, scopes: Sequence[Scope], expires: datetime | None = None) -> tuple[str, Token]:
    """A fresh token, to be shown once, and what is kept of it."""
    secret = PREFIX + secrets.token_urlsafe(_BYTES)
    return secret, Token(name=name, hash=_hash(secret), scopes=tuple(scopes), expires=expires)


@dataclass(frozen=True)
class Tokens:
    """The tokens of a file, as it is now."""

    file: Watched[tuple[Token, ...]]

    @classmethod
    def load(cls, path: Path) -> Tokens:
        """Raises DataError."""
        return cls(Watched([path], lambda: read(path)))

    def find(self, secret: str) -> Token | None:
        """The valid token that this is. Takes as long for any that is none."""
        found, digest, now = None, _hash(secret), datetime.now(UTC)
        for token in self.file.get():
            if hmac.compare_digest(token.hash, digest) and not token.expired(now):
                found = token
        return found


def _hash(secret: str) -> str:
    return "sha256:" + hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
