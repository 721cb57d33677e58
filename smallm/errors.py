"""Every error smallm raises on purpose. Edges (CLI, gRPC) map these, nothing else does."""

from __future__ import annotations

from collections.abc import Mapping


class SmallmError(Exception):
    """Base of all expected failures; the message says what is wrong and what to do."""


class DataError(SmallmError):
    """Input data is malformed. The message names the file, line and field."""

    def __init__(self, message: str, *, source: str = "", line: int = 0, field: str = "") -> None:
        where = source + (f":{line}" if line else "")
        parts = [where] if where else []
        if field:
            parts.append(f"field '{field}'")
        super().__init__(": ".join([*parts, message]))
        self.source, self.line, self.field = source, line, field


class LabelError(SmallmError):
    """A label or tag does not belong to the label set or tagging scheme in use."""


class ArtifactError(SmallmError):
    """A model folder, encoder or bundle is missing, incomplete, altered or of another version."""


class LoadError(ArtifactError):
    """A bundle may not serve. `reason`, for programs, is one of

    BUNDLE_INVALID (missing, altered, of another format), BUNDLE_CHANGED (while it was read), LOAD_FAILED
    (for want of memory, say), WARM_UP_FAILED, CANARY_FAILED (answers otherwise than at export), NAME_TAKEN.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class EngineFailedError(SmallmError):
    """The engine crashed or hung, and so did its replacements: only a new process can help."""


class MissingExtraError(SmallmError):
    """A command needs an optional dependency that is not installed."""


class LLMError(SmallmError):
    """The LLM could not be asked or its reply not used; `reason` is a `smallm.llm.reasons.Reason`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class StoreError(SmallmError):
    """The store of LLM answers could not be read or written; the message holds no text and no password."""


class RequestError(SmallmError):
    """A server refuses a call or an item. The message is sent to the caller: no path, no text of a request.

    What a caller sees of each kind (code, reason, details) is decided in `smallm_runtime.status`.
    """


class RetryLaterError(RequestError):
    """The same call may succeed after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverloadedError(RetryLaterError):
    """The server has as much to do as it can hold: a full queue, too many calls or streams."""


class UnavailableError(RetryLaterError):
    """The server cannot answer now; `reason` is LOADING, RECOVERING or STOPPING."""

    def __init__(self, reason: str, message: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s)
        self.reason = reason


class StoppingError(UnavailableError):
    """The server is stopping; another may be there soon."""

    def __init__(self) -> None:
        super().__init__("STOPPING", "the server is stopping", 2.0)


class DeadlineError(RequestError):
    """The caller's deadline has passed, or cannot be met."""


class UnauthenticatedError(RequestError):
    """The caller's credentials are not accepted; the message says no more than that."""


class CredentialsMissingError(UnauthenticatedError):
    """The caller showed no credentials, and the server asks for some."""


class PermissionDeniedError(RequestError):
    """The caller is known but may not do this; `scope` is what its credentials lack."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"these credentials do not have the scope '{scope}'")
        self.scope = scope


class UnknownMethodError(RequestError):
    """There is no such method on this server."""


class UnknownVersionError(RequestError):
    """No loaded bundle is called so."""

    def __init__(self, version: str, known: list[str]) -> None:
        self.version = version[:64]
        super().__init__(f"no bundle version '{self.version}' is loaded; there are: {', '.join(known)}")


class UnknownServiceError(RequestError):
    """The health of a service was asked for that is not on offer."""

    def __init__(self, service: str) -> None:
        self.service = service[:64]
        super().__init__(f"no service '{self.service}' on this server")


class MalformedMessageError(RequestError):
    """The bytes of a request are no message of the method's kind."""


class InvalidRequestError(RequestError):
    """A request field is invalid; `field` is its path, as in `items[3].text`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field, self.description = field, message


class TooLargeError(InvalidRequestError):
    """A field, or the whole message (`field` is ''), is larger than the server takes; smaller pieces would do."""


class UnknownDomainError(RequestError):
    """The bundle has no head for the requested domain."""

    def __init__(self, domain: str, known: list[str]) -> None:
        self.domain = domain[:64]
        super().__init__(f"no domain '{self.domain}' in this bundle; it has: {', '.join(known)}")


class ServerError(SmallmError):
    """A server refused or could not be reached, as its client sees it.

    `code` is the gRPC status code's name. `reason` is a name of the contract's ErrorReason, '' where the server did
    not get to say. `fields` says by path what is wrong with a request. `retry_after_s` is how long the server asks
    to be left alone, None if it does not.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        reason: str = "",
        retry_after_s: float | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.reason, self.retry_after_s, self.fields = code, reason, retry_after_s, dict(fields or {})


class RequestRefusedError(ServerError):
    """The request is wrong; the same one will be refused again."""


class AccessDeniedError(ServerError):
    """The server does not know the caller, or the caller may not do this."""


class DeadlineExceededError(ServerError):
    """There was no answer in time."""


class TryAgainError(ServerError):
    """The same call may succeed later."""
