"""Why there is no LLM answer. The one list; servers, clients and metrics pass these names on."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Reasons for an absent answer."""

    OFF = "off"  # the caller asked for none
    NOT_CONFIGURED = "not_configured"  # the server has no LLM, or the domain no prompt
    NOT_CACHED = "not_cached"  # only remembered answers were allowed
    DEMONSTRATION = "demonstration"  # the text stands with its labels in the prompt
    TOO_LONG = "too_long"  # a document: no prompt holds it
    CERTAIN = "certain"  # the local model was certain enough not to ask
    BACKGROUND = "background"  # being asked for next time
    BUSY = "busy"  # too many questions wait already
    OVER_BUDGET = "over_budget"  # the day's calls, tokens or money are spent
    PRIVACY = "privacy"  # nothing of the text may leave, or it cannot be put on record that it did
    STORE = "store"  # what was spent cannot be counted, so nothing is
    TIMEOUT = "timeout"
    RATE_LIMITED = "rate_limited"  # by the endpoint, or by the limits set here
    UNAVAILABLE = "unavailable"  # no connection, a server error, or no chat completion
    BREAKER_OPEN = "breaker_open"  # it failed repeatedly and is left alone for a while
    UNAUTHORIZED = "unauthorized"
    EMPTY = "empty"  # a completion without a word in it
    REFUSED = "refused"  # the request was rejected, or the model declined
    TRUNCATED = "truncated"  # the output ends in the middle
    WRONG_LANGUAGE = "wrong_language"  # translated entities
    UNPARSABLE = "unparsable"


NEGATIVE = frozenset({Reason.EMPTY, Reason.REFUSED, Reason.TRUNCATED, Reason.WRONG_LANGUAGE, Reason.UNPARSABLE})
"""What a reply itself is at fault for. Asking again soon brings the same, so it is remembered for a short while."""
