"""From an LLM's raw reply to mentions, whatever surrounds or breaks the JSON.

Bump PARSER_VERSION with any change in what comes out: parsed answers are cached under it.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from typing import Any

from smallm.errors import LLMError

PARSER_VERSION = 2
_TEXT_KEYS = ("W", "w", "text", "entity", "word", "mention", "span")
_TYPE_KEYS = ("L", "l", "label", "type", "category")
_OBJECT = re.compile(r"\{[^{}]*\}")
_EMPTY = re.compile(r"\[\s*\]")
_LONGEST_REPLY = 1_000_000


@dataclass(frozen=True, slots=True)
class Mention:
    """A string the LLM claims to be an entity, not yet found in the text."""

    text: str
    type: str


def parse_reply(reply: str) -> list[Mention]:
    """The mentions of a reply, in order; [] for an explicit empty answer.

    Survives code fences, prose around the JSON, single quotes, trailing commas, wrapper objects and
    arrays cut off in the middle (complete items are kept). Runs in time linear in the reply's length.
    What a model thinks aloud before it answers (`<think>`) is not the answer.
    Raises LLMError("unparsable") if there is no answer in it: that is not the same as no entities.
    """
    reply = answer_part(reply)
    whole = _loads(_unfenced(reply))
    if whole is not None:
        found = _mentions(whole)
        if found is not None:
            return found
    items = [_loads(match.group()) for match in _OBJECT.finditer(reply)]
    mentions = [mention for item in items if isinstance(item, dict) and (mention := _mention(item))]
    if mentions:
        return mentions
    if _EMPTY.search(reply):
        return []
    raise LLMError("unparsable", f"the LLM's reply of {len(reply)} characters holds no JSON array of entities")


def answer_part(reply: str) -> str:
    """The reply without its thoughts, cut to a length that can be parsed."""
    return reply[:_LONGEST_REPLY].rpartition("</think>")[2]


def ends_early(reply: str) -> bool:
    """Whether a JSON answer was begun and not ended."""
    part = answer_part(reply).strip()
    fenced = part.startswith("```")
    body = part.partition("\n")[2].strip() if fenced else part
    return body.startswith(("[", "{")) and not body.rstrip("` \n").endswith(("]", "}")) and _loads(body) is None


def _unfenced(reply: str) -> str:
    stripped = reply.strip()
    if stripped.startswith("```"):
        stripped = stripped.partition("\n")[2].rpartition("```")[0]
    return stripped.strip()


def _loads(text: str) -> Any:
    """JSON, or the same in Python's literal syntax (single quotes, trailing commas); None if neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def _mentions(value: Any) -> list[Mention] | None:
    if isinstance(value, dict):
        single = _mention(value)
        if single:
            return [single]
        inner = [part for part in value.values() if isinstance(part, list)]
        return _mentions(inner[0]) if len(inner) == 1 else None
    if not isinstance(value, list):
        return None
    mentions = [mention for item in value if isinstance(item, dict) and (mention := _mention(item))]
    return mentions if mentions or not value else None


def _mention(item: dict[Any, Any]) -> Mention | None:
    text = next((item[key] for key in _TEXT_KEYS if isinstance(item.get(key), str)), "")
    type_ = next((item[key] for key in _TYPE_KEYS if isinstance(item.get(key), str)), "")
    return Mention(text, type_) if text and type_ else None
