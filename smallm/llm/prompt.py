"""The prompt in four parts: role and types, output format, demonstrations, input (Yang et al. 2025).

The wording of the first two parts is a versioned template file; a changed wording is a new file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from smallm.errors import DataError

TEMPLATE_VERSION = "v1"
WRAPPED = '\n只输出一个 JSON 对象，上述数组放在它的 entities 字段中：{"entities": [...]}'
Message = dict[str, str]


@dataclass(frozen=True)
class EntityType:
    """A type the LLM may answer and how to explain it."""

    name: str
    description: str = ""


@dataclass(frozen=True)
class Demonstration:
    """A text and the answer (JSON) the LLM should give to it."""

    text: str
    answer: str


@dataclass(frozen=True)
class Prompt:
    """What the LLM is told about one domain. `system` overrides the template's first two parts."""

    domain: str
    types: tuple[EntityType, ...]
    demonstrations: tuple[Demonstration, ...] = ()
    system: str = ""

    @classmethod
    def load(cls, path: Path) -> Prompt:
        """Read `prompt.json`. Raises DataError naming the file and field."""
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")), str(path))
        except FileNotFoundError:
            raise DataError("no such file; name the prompt with --prompt", source=str(path)) from None
        except json.JSONDecodeError as error:
            raise DataError(f"not valid JSON ({error.msg})", source=str(path), line=error.lineno) from None

    @classmethod
    def from_json(cls, value: Any, source: str = "prompt") -> Prompt:
        """From {"domain" or "dataset", "types", "demonstrations", "system"}; types are names or objects."""
        if not isinstance(value, dict) or not isinstance(value.get("types"), list) or not value["types"]:
            raise DataError("missing or not a list of entity types", source=source, field="types")
        types = [EntityType(t, "") if isinstance(t, str) else _entity_type(t, source) for t in value["types"]]
        shown = [_demonstration(d, source, index) for index, d in enumerate(value.get("demonstrations", []))]
        domain = str(value.get("domain") or value.get("dataset") or "")
        return cls(domain, tuple(types), tuple(shown), str(value.get("system", "")))

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`."""
        shown = [{"text": d.text, "answer": json.loads(d.answer)} for d in self.demonstrations]
        types = [{"name": t.name, "description": t.description} for t in self.types]
        value: dict[str, Any] = {"domain": self.domain, "types": types, "demonstrations": shown}
        return value | ({"system": self.system} if self.system else {})

    @property
    def type_names(self) -> tuple[str, ...]:
        """The types by name, in the order told."""
        return tuple(type_.name for type_ in self.types)

    def messages(self, text: str, *, wrapped: bool = False) -> list[Message]:
        """The rendered chat: system, one user/assistant turn a demonstration, then `text`.

        `wrapped` asks for an object around the array, for endpoints whose JSON mode knows objects only.
        """
        told = (self.system or _render(TEMPLATE_VERSION, self.domain, self.types)) + (WRAPPED if wrapped else "")
        turns = [{"role": "system", "content": told}]
        for shown in self.demonstrations:
            turns.append({"role": "user", "content": shown.text})
            answer = f'{{"entities": {shown.answer}}}' if wrapped else shown.answer
            turns.append({"role": "assistant", "content": answer})
        return [*turns, {"role": "user", "content": text}]

    def is_demonstration(self, text: str) -> bool:
        """Whether `text` is shown with its answer; the LLM would only repeat it."""
        return any(shown.text == text for shown in self.demonstrations)


@lru_cache(maxsize=256)
def _render(version: str, domain: str, types: tuple[EntityType, ...]) -> str:
    return str(_template(version).render(domain=domain, types=types)).strip()


@lru_cache
def _template(version: str) -> Any:
    from jinja2 import Environment, StrictUndefined

    file = Path(__file__).parent / "templates" / f"{version}.jinja"
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    return environment.from_string(file.read_text(encoding="utf-8"))


def _entity_type(value: Any, source: str) -> EntityType:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise DataError("a type is a name or an object with 'name' and 'description'", source=source, field="types")
    return EntityType(value["name"], str(value.get("description", "")))


def _demonstration(value: Any, source: str, index: int) -> Demonstration:
    if not isinstance(value, dict) or not isinstance(value.get("text"), str) or "answer" not in value:
        raise DataError("needs 'text' and 'answer'", source=source, field=f"demonstrations[{index}]")
    return Demonstration(value["text"], json.dumps(value["answer"], ensure_ascii=False))
