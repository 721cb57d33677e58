"""One attempt at an OpenAI-compatible endpoint. Every way it can fail becomes a CallError with a Reason."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from smallm.errors import LLMError
from smallm.llm.parse import ends_early
from smallm.llm.reasons import Reason
from smallm.llm.request import Request
from smallm.llm.settings import EndpointSettings

if TYPE_CHECKING:  # its import takes longer than all else a server does before it serves: only who asks an LLM pays it
    import openai
    from openai.types.chat import ChatCompletion

_NO_WORK = frozenset({400, 401, 403, 404, 413, 422, 429, 503})  # statuses that nobody bills


class CallError(LLMError):
    """A call that brought nothing.

    `retryable`: the same call may succeed later, not before `retry_after_s` if that is stated. `rejected`: the
    endpoint does not take such a request. `billed`: it may have cost something all the same.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        retryable: bool = False,
        retry_after_s: float | None = None,
        rejected: bool = False,
        billed: bool = True,
    ) -> None:
        super().__init__(reason, message)
        self.retryable, self.retry_after_s, self.rejected, self.billed = retryable, retry_after_s, rejected, billed


@dataclass(frozen=True)
class Reply:
    """A completion: the raw content, why it is no answer if that can be seen, tokens (0 unknown), seconds."""

    content: str
    outcome: Reason | None
    prompt_tokens: int
    completion_tokens: int
    latency_s: float


class LLMClient:
    """The `openai` client against one endpoint, without its retries: those must know the caller's deadline."""

    def __init__(self, endpoint: EndpointSettings) -> None:
        """Raises DataError if the key's file cannot be read."""
        import openai

        self._field = endpoint.max_tokens_field
        self.openai = openai.AsyncOpenAI(
            base_url=endpoint.url, api_key=endpoint.api_key(), timeout=endpoint.timeout_s, max_retries=0
        )

    async def ask(self, request: Request, timeout_s: float) -> Reply:
        """One completion within `timeout_s` altogether. Raises CallError; it holds neither the key nor the text."""
        import openai
        from openai.types.chat import ChatCompletion

        begin = time.perf_counter()
        try:
            async with asyncio.timeout(timeout_s):  # the library bounds single reads: a slow drip would go on for ever
                completion = await self.openai.chat.completions.create(**body(request, self._field))
        except TimeoutError:
            raise CallError(Reason.TIMEOUT, "the LLM took too long", retryable=True) from None
        except openai.OpenAIError as error:
            raise _call_error(error) from None
        except Exception as error:  # bodies that are no JSON or not UTF-8, and what else the transport lets through
            raise _no_completion(type(error).__name__) from None
        if not isinstance(completion, ChatCompletion):  # the library takes a body's word for what it is
            raise _no_completion(type(completion).__name__)
        return reply_of(completion, time.perf_counter() - begin)

    async def close(self) -> None:
        """Close the connections."""
        await self.openai.close()


def body(request: Request, max_tokens_field: str) -> dict[str, Any]:
    """The parameters of a call, as `request.key` has them."""
    model = request.model
    parameters: dict[str, Any] = {"model": model.name, "messages": request.messages}
    optional = {
        "temperature": model.temperature,
        "top_p": model.top_p,
        "seed": model.seed,
        "response_format": request.response_format,
        max_tokens_field: model.max_tokens,
    }
    parameters |= {name: value for name, value in optional.items() if value is not None}
    extra = json.loads(model.extra)
    return parameters | ({"extra_body": extra} if extra else {})


def reply_of(completion: ChatCompletion, latency_s: float) -> Reply:
    """What a completion says, whatever parts of it a server left out."""
    used = completion.usage
    tokens = (used.prompt_tokens or 0, used.completion_tokens or 0) if used is not None else (0, 0)
    choice = completion.choices[0] if completion.choices else None
    message = choice.message if choice is not None else None
    if choice is None or message is None:
        return Reply("", Reason.EMPTY, *tokens, latency_s)
    content = (message.content if isinstance(message.content, str) else "").encode("utf-8", "replace").decode()
    outcome = None
    if message.refusal or choice.finish_reason == "content_filter":
        outcome = Reason.REFUSED
    elif choice.finish_reason == "length" or ends_early(content):
        outcome = Reason.TRUNCATED
    elif not content.strip():
        outcome = Reason.EMPTY
    return Reply(content, outcome, *tokens, latency_s)


def _no_completion(kind: str) -> CallError:
    message = f"the LLM's endpoint did not answer with a chat completion ({kind}); is it a gateway's page?"
    return CallError(Reason.UNAVAILABLE, message, retryable=True)


def _call_error(error: openai.OpenAIError) -> CallError:
    import openai

    message = f"the LLM call failed: {type(error).__name__}"
    if isinstance(error, openai.APITimeoutError):
        return CallError(Reason.TIMEOUT, message, retryable=True)
    if not isinstance(error, openai.APIStatusError):
        return CallError(Reason.UNAVAILABLE, message, retryable=True)
    status = error.status_code
    after = retry_after(dict(error.response.headers))
    if status == 429:
        return CallError(Reason.RATE_LIMITED, message, retryable=True, retry_after_s=after, billed=False)
    if status in (401, 403):
        return CallError(Reason.UNAUTHORIZED, message, billed=False)
    if status in (400, 413, 422):
        return CallError(Reason.REFUSED, message, rejected=True, billed=False)
    retryable = status >= 500 or status in (408, 409)
    billed = status not in _NO_WORK
    return CallError(Reason.UNAVAILABLE, message, retryable=retryable, retry_after_s=after, billed=billed)


def retry_after(headers: dict[str, str]) -> float | None:
    """Seconds that a reply's `Retry-After` (or `retry-after-ms`) asks to wait; None if it does not say."""
    lower = {name.lower(): value for name, value in headers.items()}
    try:
        if "retry-after-ms" in lower:
            return max(0.0, float(lower["retry-after-ms"]) / 1000)
        stated = lower["retry-after"].strip()
        if stated.replace(".", "", 1).isdigit():
            return float(stated)
        return max(0.0, (parsedate_to_datetime(stated) - datetime.now(UTC)).total_seconds())
    except (KeyError, ValueError, TypeError):
        return None
