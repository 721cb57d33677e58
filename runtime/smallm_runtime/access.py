"""Who may call which method."""

from __future__ import annotations

from collections.abc import Iterable

from smallm.errors import CredentialsMissingError, PermissionDeniedError, UnauthenticatedError
from smallm_runtime.settings import Settings
from smallm_runtime.tokens import Scope, Tokens

AUTHORIZATION = "authorization"
_SCHEME = "bearer "
# Probes of orchestrators and load balancers: they have no tokens, and learn no more than serving or not.
_KSERVE = "/inference.GRPCInferenceService/"
_HEALTH = ("/grpc.health.v1.Health/", f"{_KSERVE}ServerLive", f"{_KSERVE}ServerReady")
_RECOGNISE = ("/smallm.ner.", _KSERVE, "/grpc.reflection.")


def scope(method: str) -> Scope:
    """The scope that a method asks for. One that is not known here is an operator's."""
    return Scope.RECOGNISE if method.startswith((*_RECOGNISE, *_HEALTH)) else Scope.ADMIN


class Access:
    """Judges a call by its method and metadata, before anything of its message is read."""

    def __init__(self, settings: Settings) -> None:
        """Raises DataError for a tokens file that is none."""
        path = settings.auth.tokens
        self._tokens = Tokens.load(path) if path else None
        self._open_health = settings.auth.open_health
        self._only_this_machine = settings.only_this_machine

    def check(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """The caller's name, '' for nobody in particular. Raises UnauthenticatedError, PermissionDeniedError."""
        if self._open_health and method.startswith(_HEALTH):
            return ""
        needed = scope(method)
        if self._tokens is None:
            if needed is Scope.ADMIN and not self._only_this_machine:
                raise PermissionDeniedError(Scope.ADMIN)
            return ""
        shown = [value for name, value in metadata if name == AUTHORIZATION]
        if not shown:
            raise CredentialsMissingError("this server asks for a bearer token in the metadata 'authorization'")
        value = shown[0]
        if len(shown) > 1 or not isinstance(value, str) or value[: len(_SCHEME)].lower() != _SCHEME:
            raise UnauthenticatedError("these credentials are not accepted")
        token = self._tokens.find(value[len(_SCHEME) :].strip())
        if token is None:
            raise UnauthenticatedError("these credentials are not accepted")
        if needed not in token.scopes:
            raise PermissionDeniedError(needed)
        return token.name
