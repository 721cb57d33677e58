"""One question to the LLM, and the key under which its answer is remembered."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from smallm.llm.prompt import TEMPLATE_VERSION, Message, Prompt
from smallm.llm.response_format import ResponseFormat, schema


@dataclass(frozen=True)
class Model:
    """Who answers and how it samples. `provider` is the base URL, or `recorded` for imported answers.

    A `temperature`, `top_p` or `seed` of None is not sent. `extra` is a JSON object of what else the
    endpoint is told (`{"chat_template_kwargs": {"enable_thinking": false}}`, say).
    """

    provider: str
    name: str
    temperature: float | None = 0.0
    max_tokens: int = 2048
    top_p: float | None = None
    seed: int | None = None
    extra: str = "{}"


RECORDED = Model("recorded", "recorded")  # under which imported answers are kept


@dataclass(frozen=True)
class Request:
    """All that determines an answer."""

    model: Model
    messages: list[Message]
    response_format: dict[str, Any] | None = None
    template: str = field(default=TEMPLATE_VERSION)

    @cached_property
    def key(self) -> str:
        """sha256 over the canonical JSON of every field: equal only for the very same question."""
        fields = {
            "model": asdict(self.model),
            "messages": self.messages,
            "response_format": self.response_format,
            "template": self.template,
        }
        canonical = json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def ask(model: Model, prompt: Prompt, text: str, form: ResponseFormat = ResponseFormat.TEXT) -> Request:
    """The request that asks `model` for the entities of `text`."""
    wrapped = form is not ResponseFormat.TEXT
    return Request(model, prompt.messages(text, wrapped=wrapped), schema(form, prompt.type_names))
