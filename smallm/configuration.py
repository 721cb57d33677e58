"""Settings from TOML files: how they are read, checked and printed, and how a mistake in one is pointed at."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from smallm.errors import DataError

T = TypeVar("T")
Steps = tuple[int | str, ...]  # where a value is: ("llm", "endpoint", 0, "url")
DATACLASS = ConfigDict(extra="forbid", use_attribute_docstrings=True)
REDACTED = "***"
_SECRET = re.compile("key|token|secret|password|authorization|cookie", re.IGNORECASE)


class Section(BaseModel):
    """A table of settings. A field's docstring is its help, wherever help is given."""

    model_config = DATACLASS | ConfigDict(frozen=True)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's content. Raises DataError naming file and line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({type(error).__name__})", source=str(path)) from None
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"not valid TOML: {error}", source=str(path)) from None
    except RecursionError:
        raise DataError("nested too deeply", source=str(path)) from None


def checked(validate: Callable[[Any], T], value: Any, where: Callable[[Steps], tuple[str, int]]) -> T:
    """`validate(value)`. Raises DataError for its first mistake; `where` names the source and line of a value."""
    try:
        return validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]  # the input may be a key in the wrong place
        source, line = where(first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise DataError(message, source=source, line=line, field=dotted(first["loc"])) from None


def dotted(steps: Steps) -> str:
    """`("endpoint", 0, "url")` as people write it: endpoint[0].url."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")


def line_of(text: str, steps: Steps) -> int:
    """The line of a TOML document that sets the value at `steps` or the table around it; 0 if none is found.

    tomllib tells no lines. Tables in the usual style are found; a value inside an inline table is its key's line.
    """
    names = [step for step in steps if isinstance(step, str)]
    numbers = [step for step in steps if isinstance(step, int)]
    table: list[str] = []
    best, depth, seen = 0, 0, dict[str, int]()
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*(\[\[?)([^\]]+)\]", line)
        entry = re.match(r"\s*([A-Za-z0-9_.\"'-]+)\s*=", line)
        if header:
            table = _names(header[2])
            if header[1] == "[[":
                seen[header[2]] = seen.get(header[2], -1) + 1
        elif not entry:
            continue
        here = table if header else table + _names(entry[1])  # type: ignore[index]
        another = bool(numbers) and ".".join(table) in seen and seen[".".join(table)] != numbers[0]
        if here == names[: len(here)] and len(here) > depth and not another:
            best, depth = number, len(here)
    return best


def anchored(value: T, folder: Path) -> T:
    """`value` with the relative paths in it taken from `folder`."""
    if isinstance(value, Path):
        return folder / value
    if isinstance(value, tuple):
        return tuple(anchored(one, folder) for one in value)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {name: anchored(one, folder) for name, one in value.items()}  # type: ignore[return-value]
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return value.model_copy(update={name: anchored(getattr(value, name), folder) for name in fields})
    return value


def to_toml(tables: Mapping[str, Any], note: Callable[[Steps], str] = lambda steps: "") -> str:
    """A TOML document; None is a comment, and what is called a secret inside a free table is not shown.

    `note` may add a comment to a value.
    """
    lines: list[str] = []
    _write_table(tables, (), note, lines)
    return "\n".join(lines).strip() + "\n"


def _write_table(table: Mapping[str, Any], steps: Steps, note: Callable[[Steps], str], lines: list[str]) -> None:
    later: list[tuple[str, Any]] = []
    for name, value in table.items():
        if isinstance(value, Mapping) or (isinstance(value, list) and value and isinstance(value[0], Mapping)):
            later.append((name, value))
            continue
        told = note((*steps, name))
        stated = f"# {name} =" if value is None else f"{_key(name)} = {_literal(value)}"
        lines.append(f"{stated}  # {told}" if told else stated)
    for name, value in later:
        inner = (*steps, name)
        title = ".".join(_key(str(step)) for step in inner if isinstance(step, str))
        for index, one in enumerate(value if isinstance(value, list) else [value]):
            lines += ["", f"[[{title}]]" if isinstance(value, list) else f"[{title}]"]
            _write_table(one, (*inner, index) if isinstance(value, list) else inner, note, lines)


def redacted(value: Any) -> Any:
    """A free table without what its names call secrets."""
    if isinstance(value, Mapping):
        return {name: REDACTED if _SECRET.search(name) else redacted(one) for name, one in value.items()}
    return [redacted(one) for one in value] if isinstance(value, list) else value


def _literal(value: Any) -> str:
    """JSON's strings, numbers and arrays are TOML's as well."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _names(path: str) -> list[str]:
    return [name.strip(" \"'") for name in path.split(".")]
