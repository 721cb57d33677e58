"""The experiment file: what is run, checked before anything starts.

Paths in it are relative to it. Every error names the file and the field.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from smallm.encoder import EMBEDDED
from smallm.errors import DataError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
Size = Annotated[int, Field(strict=True, ge=0)] | Literal["all"]
Seed = Annotated[int, Field(strict=True, ge=0)]
ALL: Literal["all"] = "all"


class _Strict(BaseModel):
    """Unknown fields are mistakes; nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetPlan(_Strict):
    """One dataset. `data` and `answers` default to the roots' sub-folder of the same name.

    `folds`: k-fold over train, dev and test together instead of the given split; a share `dev_share`
    of each fold's training part is its dev. `dev_limit`: choose on this many dev texts only.
    """

    name: Name
    data: Path | None = None
    answers: Path | None = None
    prompt: Path | None = None
    folds: Annotated[int, Field(strict=True, ge=2)] | None = None
    dev_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    dev_limit: Annotated[int, Field(strict=True, ge=1)] | None = None
    sizes: tuple[Size, ...] | None = None


class Plan(_Strict):
    """A whole experiment. See docs/experiments.md for each field."""

    name: Name
    out: Path
    data: Path | None = None
    answers: Path | None = None
    encoder: str = EMBEDDED
    datasets: Annotated[tuple[DatasetPlan, ...], Field(min_length=1)]
    systems: Annotated[tuple[Name, ...], Field(min_length=1)]
    sizes: Annotated[tuple[Size, ...], Field(min_length=1)] = (0, 10, 20, 40, 80, 160, 320, ALL)
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    jobs: Annotated[int, Field(strict=True, ge=1, le=256)] = 1
    resamples: Annotated[int, Field(strict=True, ge=100, le=100_000)] = 2000
    compare: tuple[tuple[str, str], ...] = (
        ("ours.fused", "llm"),
        ("ours.fused", "local"),
        ("ours.fused", "ours.local"),
        ("ours.served", "llm"),
        ("ours.served", "local"),
        ("ours.fused", "paper.fused"),
    )
    options: dict[Name, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _nothing_repeats(self) -> Self:
        for field in ("systems", "sizes", "seeds"):
            values = getattr(self, field)
            if len(set(values)) != len(values):
                raise ValueError(f"'{field}' repeats a value")
        names = [dataset.name for dataset in self.datasets]
        if len(set(names)) != len(names):
            raise ValueError("'datasets' repeats a name")
        unused = sorted(set(self.options) - set(self.systems))
        if unused:
            raise ValueError(f"'options' has {', '.join(unused)}, which 'systems' lacks")
        return self


def read_plan(file: Path, overrides: dict[str, Any] | None = None) -> Plan:
    """Read an experiment file; `overrides` replace its top-level fields, with paths as they are given.

    Raises DataError naming the file, line or field, and what is wrong.
    """
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise DataError("no such experiment file", source=str(file)) from None
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start}", source=str(file)) from None
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"not valid TOML ({error})", source=str(file)) from None
    values.setdefault("name", file.stem)
    try:
        plan = Plan.model_validate(values)
    except ValidationError as error:
        raise _first(error, file) from None
    return _anchored(plan, file.resolve().parent).model_copy(update=overrides or {})


def _first(error: ValidationError, file: Path) -> DataError:
    """The first mistake; pydantic's place in it without the names of union members."""
    mistake = error.errors()[0]
    field = ""
    for part in mistake["loc"]:
        if isinstance(part, int):
            field += f"[{part}]"
        elif part.isidentifier() and part not in ("int", "constrained-int"):
            field += f".{part}" if field else part
    message = "unknown field" if mistake["type"] == "extra_forbidden" else mistake["msg"].removeprefix("Value error, ")
    return DataError(message[0].lower() + message[1:], source=str(file), field=field)


def _anchored(plan: Plan, folder: Path) -> Plan:
    """Relative paths are relative to the experiment file."""

    def paths(value: _Strict, fields: tuple[str, ...]) -> dict[str, Any]:
        return {field: folder / path for field in fields if (path := getattr(value, field)) is not None}

    datasets = tuple(
        dataset.model_copy(update=paths(dataset, ("data", "answers", "prompt"))) for dataset in plan.datasets
    )
    changed = paths(plan, ("out", "data", "answers")) | {"datasets": datasets}
    if (folder / plan.encoder).is_dir():
        changed["encoder"] = str(folder / plan.encoder)
    return plan.model_copy(update=changed)
