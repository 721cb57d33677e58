"""Where settings come from: flags before environment before file before default; and how they are shown."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from smallm.configuration import Steps, anchored, checked, line_of, read_toml, redacted, to_toml
from smallm.errors import DataError
from smallm_runtime.settings import Settings

PREFIX = "SMALLM_"
LLM = "llm"
_DEST = "setting:"
_ADAPTER = TypeAdapter(Settings)


@dataclass(frozen=True)
class Leaf:
    """One setting: where it is, what it may be, and its help."""

    steps: tuple[str, ...]
    kind: Any
    help: str
    default: Any

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return PREFIX + "_".join(self.steps).upper()

    @property
    def flag(self) -> str:
        """Its flag; '' for those of the LLM, which has a few of its own."""
        return "" if self.steps[0] == LLM else "--" + "-".join(self.steps).replace("_", "-")

    @property
    def many(self) -> bool:
        """Whether it holds several values."""
        return str(self.kind).startswith("tuple")

    @property
    def default_text(self) -> str:
        """For people."""
        if self.default is MISSING:
            return "required"
        plain = TypeAdapter(Any).dump_python(self.default, mode="json")
        return str(plain).lower() if isinstance(plain, bool) else str(plain) if plain not in (None, "", []) else ""


def leaves() -> list[Leaf]:
    """Every setting that a string can say, in the order of the model."""
    return list(_leaves(Settings.__pydantic_fields__, ()))  # type: ignore[attr-defined]


def _leaves(described: Mapping[str, FieldInfo], path: tuple[str, ...]) -> Iterator[Leaf]:
    for name, field in described.items():
        steps = (*path, LLM if name == "bridge" else name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _leaves(kind.model_fields, steps)
        elif not str(kind).startswith("dict") and not _holds_sections(kind):
            default = MISSING if field.is_required() else field.default
            yield Leaf(steps, kind, field.description or "", default)


def _holds_sections(kind: Any) -> bool:
    return any(isinstance(one, type) and issubclass(one, BaseModel) for one in getattr(kind, "__args__", ()))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag a setting."""
    for leaf in leaves():
        if not leaf.flag or leaf.steps == ("bundle",):
            continue
        default = f" (default: {leaf.default_text})" if leaf.default_text else ""
        options: dict[str, Any] = {"dest": _DEST + ".".join(leaf.steps), "default": None}
        options["help"] = (leaf.help + default).replace("%", "%%")
        if leaf.kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = leaf.steps[-1].upper()
            options["action"] = "append" if leaf.many else "store"
        parser.add_argument(leaf.flag, **options)


def read_flags(args: argparse.Namespace) -> dict[tuple[str, ...], Any]:
    """What `add_flags` got."""
    given = {name.removeprefix(_DEST): value for name, value in vars(args).items() if name.startswith(_DEST)}
    return {tuple(name.split(".")): value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Loaded:
    """Settings, and of each that is not the default who said so."""

    settings: Settings
    origins: Mapping[tuple[str, ...], str]

    def to_toml(self) -> str:
        """All of them as a file that says the same; a secret is in none of them."""
        value: dict[str, Any] = _ADAPTER.dump_python(self.settings, mode="json")
        value[LLM] = value.pop("bridge")
        for endpoint in value[LLM]["endpoint"]:
            endpoint["extra_body"] = redacted(endpoint["extra_body"])
        return to_toml(value, lambda steps: self.origins.get(tuple(map(str, steps)), ""))


def load(
    file: Path | None,
    environment: Mapping[str, str],
    flags: Mapping[tuple[str, ...], Any],
    llm_file: Path | None = None,
) -> Loaded:
    """Settings of all sources. Raises DataError naming the source, its line and the field.

    Relative paths in a file are relative to the file; others to the working folder. `llm_file` is the table `llm`
    in a file of its own.
    """
    value = read_toml(file) if file else {}
    files: dict[str, Path] = {name: file for name in value} if file else {}
    if llm_file:
        if LLM in value:
            raise DataError(f"the LLM's settings are here and in {llm_file}; keep one", source=str(file), field=LLM)
        value[LLM], files[LLM] = read_toml(llm_file), llm_file
    said = _environment(environment) | {steps: (flag, _flag_name(steps)) for steps, flag in flags.items()}
    origins = {steps: f"{files[str(steps[0])]}" for steps in _paths(value)} | {s: name for s, (_, name) in said.items()}
    for steps, (one, _) in said.items():
        _set(value, steps, _absolute(steps, one))

    if "bundle" not in value:
        raise DataError("no bundle to serve; name its folder as the argument, or as `bundle` in the --config file")

    def where(steps: Steps) -> tuple[str, int]:
        names = tuple(step for step in steps if isinstance(step, str))
        for length in range(len(names), 0, -1):
            if names[:length] in said:
                return said[names[:length]][1], 0
        source = files.get(names[0]) if names else file
        if source is None:
            return "settings", 0
        inside = steps[1:] if source == llm_file else steps
        return str(source), line_of(source.read_text(encoding="utf-8"), inside)

    settings = checked(_ADAPTER.validate_python, value, where)
    folder, llm_folder = (one.parent if one else Path() for one in (file, files.get(LLM)))
    told = {field.name: anchored(getattr(settings, field.name), folder) for field in fields(settings)}
    told["bridge"] = settings.bridge.anchored(llm_folder) if files.get(LLM) else settings.bridge
    return Loaded(Settings(**told), origins)


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and are none: typing errors, perhaps."""
    others = {"SMALLM_CACHE", "SMALLM_LLM_API_KEY", "SMALLM_REDIS_PASSWORD"}
    known = {leaf.variable for leaf in leaves()} | others
    return sorted(name for name in environment if name.startswith(PREFIX) and name not in known)


def markdown() -> str:
    """The table of docs/operations.md."""
    rows = ["| setting | flag | default | |", "|---|---|---|---|"]
    for leaf in leaves():
        if leaf.flag:
            flag = "`BUNDLE`" if leaf.steps == ("bundle",) else f"`{leaf.flag}`"
            default = f"`{leaf.default_text}`" if leaf.default_text else ""
            rows.append(f"| `{'.'.join(leaf.steps)}` | {flag} | {default} | {leaf.help} |")
    return "\n".join(rows) + "\n"


def _environment(environment: Mapping[str, str]) -> dict[tuple[str, ...], tuple[Any, str]]:
    said: dict[tuple[str, ...], tuple[Any, str]] = {}
    for leaf in leaves():
        text = environment.get(leaf.variable)
        if text is not None:
            value = [one.strip() for one in text.split(",") if one.strip()] if leaf.many else text
            said[leaf.steps] = value, leaf.variable
    return said


def _flag_name(steps: tuple[str, ...]) -> str:
    known = {leaf.steps: leaf.flag for leaf in leaves()}
    return known.get(steps) or "flags"


def _set(value: dict[str, Any], steps: tuple[str, ...], one: Any) -> None:
    for step in steps[:-1]:
        inner = value.setdefault(step, {})
        if not isinstance(inner, dict):
            return  # the file has something else in a table's place, which is the mistake to tell
        value = inner
    value[steps[-1]] = one


def _absolute(steps: tuple[str, ...], value: Any) -> Any:
    """Paths from flags and environment are the working folder's, not the file's."""
    kinds = {leaf.steps: str(leaf.kind) for leaf in leaves()}
    if isinstance(value, list):
        return [_absolute(steps, one) for one in value]
    is_store = steps == (LLM, "store") and value and "://" not in str(value)
    return os.path.abspath(value) if "Path" in kinds.get(steps, "") or is_store else value


def _paths(value: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, one in value.items():
        if isinstance(one, Mapping):
            yield from _paths(one, (*path, name))
        else:
            yield (*path, name)
