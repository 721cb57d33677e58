"""How strictly an endpoint can be held to JSON. Servers differ, so there is a ladder to climb down."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any


class ResponseFormat(StrEnum):
    """What `response_format` asks for; AUTO is the strictest of the others that the endpoint accepts."""

    AUTO = "auto"
    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    TEXT = "text"


def ladder(wanted: ResponseFormat) -> tuple[ResponseFormat, ...]:
    """The formats to try, strictest first."""
    if wanted is ResponseFormat.AUTO:
        return ResponseFormat.JSON_SCHEMA, ResponseFormat.JSON_OBJECT, ResponseFormat.TEXT
    return (wanted,)


def schema(form: ResponseFormat, types: Sequence[str]) -> dict[str, Any] | None:
    """The `response_format` parameter; None for plain text. JSON modes demand an object around the array."""
    if form is ResponseFormat.TEXT:
        return None
    if form is ResponseFormat.JSON_OBJECT:
        return {"type": "json_object"}
    item = _object({"W": {"type": "string"}, "L": {"type": "string", "enum": list(types)}})
    entities = _object({"entities": {"type": "array", "items": item}})
    return {"type": "json_schema", "json_schema": {"name": "entities", "strict": True, "schema": entities}}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
