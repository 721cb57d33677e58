"""One question to the LLM, and the key under which its answer is remembered."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from smallm.llm.prompt import TEMPLATE_VERSION, Message, Prompt


@dataclass(frozen=True)
class Model:
    """Who answers and how it samples. `provider` is the base URL, or `recorded` for imported answers."""

    provider: str
    name: str
    temperature: float = 0.0
    max_tokens: int = 2048


RECORDED = Model("recorded", "recorded")  # under which imported answers are kept


@dataclass(frozen=True)
class Request:
    """All that determines an answer."""

    model: Model
    messages: list[Message]
    response_format: dict[str, Any] | None = None
    template: str = field(default=TEMPLATE_VERSION)

    @property
    def key(self) -> str:
        """sha256 over the canonical JSON of every field: equal only for the very same question."""
        canonical = json.dumps(asdict(self), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def ask(model: Model, prompt: Prompt, text: str) -> Request:
    """The request that asks `model` for the entities of `text`."""
    return Request(model, prompt.messages(text))
