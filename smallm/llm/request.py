"""One question to the LLM, and the key under which its answer is remembered."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
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
        return hashlib.sha256(self.canonical).hexdigest()

    @property
    def canonical(self) -> bytes:
        """The canonical JSON."""
        fields = {
            "model": asdict(self.model),
            "messages": self.messages,
            "response_format": self.response_format,
            "template": self.template,
        }
        return _canonical(fields)


def _canonical(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


class Asking:
    """A request but for its text. What the texts of a prompt share is rendered and hashed once for all of them."""

    def __init__(self, model: Model, prompt: Prompt, form: ResponseFormat) -> None:
        self._model, self._prompt, self._form = model, prompt, form
        mark = uuid.uuid4().hex
        head, _, self._tail = ask(model, prompt, mark, form).canonical.partition(_canonical(mark))
        self._head = hashlib.sha256(head)

    def key(self, text: str) -> str:
        """`request(text).key`, sooner."""
        hashed = self._head.copy()
        hashed.update(_canonical(text) + self._tail)
        return hashed.hexdigest()

    def request(self, text: str) -> Request:
        """The request for `text`."""
        return ask(self._model, self._prompt, text, self._form)


@lru_cache(maxsize=256)
def asking(model: Model, prompt: Prompt, form: ResponseFormat = ResponseFormat.TEXT) -> Asking:
    """An `Asking`, made once."""
    return Asking(model, prompt, form)


def ask(model: Model, prompt: Prompt, text: str, form: ResponseFormat = ResponseFormat.TEXT) -> Request:
    """The request that asks `model` for the entities of `text`."""
    wrapped = form is not ResponseFormat.TEXT
    return Request(model, prompt.messages(text, wrapped=wrapped), schema(form, prompt.type_names))
