"""Why there is no LLM answer. The one list; servers and clients pass these names on."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Reasons for an absent answer."""

    OFF = "off"  # the caller asked for none
    NOT_CONFIGURED = "not_configured"  # the server has no LLM, or the domain no prompt
    NOT_CACHED = "not_cached"  # only remembered answers were allowed
    DEMONSTRATION = "demonstration"  # the text stands with its labels in the prompt
    TIMEOUT = "timeout"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"  # no connection, or a server error
    UNAUTHORIZED = "unauthorized"
    REFUSED = "refused"  # the request was rejected, or the model declined
    UNPARSABLE = "unparsable"
