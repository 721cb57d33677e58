"""Asking an OpenAI-compatible endpoint. Every way it can fail becomes an LLMError with a Reason."""

from __future__ import annotations

import os
from dataclasses import dataclass

import openai
from openai.types.chat import ChatCompletion

from smallm.errors import LLMError
from smallm.llm.reasons import Reason
from smallm.llm.request import Request

KEY_VARIABLE = "SMALLM_LLM_API_KEY"  # the key never comes from a file, a flag or a bundle


@dataclass(frozen=True)
class Endpoint:
    """Where the LLM listens. `timeout_s` bounds one attempt; the library's own 600 s suit no factory."""

    base_url: str
    timeout_s: float = 20.0
    retries: int = 1


class LLMClient:
    """The `openai` client against one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._client = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=os.environ.get(KEY_VARIABLE) or "none",
            timeout=endpoint.timeout_s,
            max_retries=endpoint.retries,
        )

    async def ask(self, request: Request) -> str:
        """The raw reply. Raises LLMError; its message holds neither the key nor the text."""
        model = request.model
        try:
            completion = await self._client.chat.completions.create(
                model=model.name,
                messages=request.messages,  # type: ignore[arg-type]
                temperature=model.temperature,
                max_tokens=model.max_tokens,
            )
        except openai.OpenAIError as error:
            raise LLMError(_reason(error), f"the LLM call failed: {type(error).__name__}") from None
        except ValueError:  # the library does not check that the body is JSON
            raise LLMError(
                Reason.UNAVAILABLE, "the LLM's endpoint did not answer in JSON; is it a gateway's page?"
            ) from None
        if not isinstance(completion, ChatCompletion):  # nor what it says it is
            raise LLMError(Reason.UNAVAILABLE, "the LLM's endpoint did not answer with a chat completion")
        choice = completion.choices[0] if completion.choices else None
        if choice is None or choice.message.refusal or choice.finish_reason == "content_filter":
            raise LLMError(Reason.REFUSED, "the LLM declined to answer")
        return choice.message.content or ""

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _reason(error: openai.OpenAIError) -> Reason:
    for kinds, reason in (
        ((openai.APITimeoutError,), Reason.TIMEOUT),
        ((openai.RateLimitError,), Reason.RATE_LIMITED),
        ((openai.AuthenticationError, openai.PermissionDeniedError), Reason.UNAUTHORIZED),
        ((openai.APIConnectionError, openai.InternalServerError), Reason.UNAVAILABLE),
        ((openai.APIResponseValidationError,), Reason.UNPARSABLE),
        ((openai.APIStatusError,), Reason.REFUSED),
    ):
        if isinstance(error, kinds):
            return reason
    return Reason.UNAVAILABLE
