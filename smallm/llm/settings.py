"""All a bridge can be told, as one TOML file or the few flags of `smallm serve`. Nothing else holds a default."""

from __future__ import annotations

import json
import os
import re
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from smallm.errors import DataError
from smallm.llm.redact import BUILT_IN
from smallm.llm.request import Model
from smallm.llm.response_format import ResponseFormat

KEY_VARIABLE = "SMALLM_LLM_API_KEY"
NO_KEY = "none"  # local servers take any


class Mode(StrEnum):
    """How far to go for an answer."""

    OFF = "off"
    CACHED_ONLY = "cached_only"
    WAIT = "wait"
    BACKGROUND = "background"
    WHEN_UNCERTAIN = "when_uncertain"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EndpointSettings(_Section):
    """One OpenAI-compatible endpoint. Prices are money for a million tokens, in one currency throughout."""

    url: str
    model: str
    key_env: str = KEY_VARIABLE
    key_file: Path | None = None
    response_format: ResponseFormat = ResponseFormat.AUTO
    timeout_s: PositiveFloat = 20.0
    retries: NonNegativeInt = 2
    temperature: float | None = 0.0
    top_p: float | None = None
    seed: int | None = None
    max_tokens: PositiveInt = 2048
    max_tokens_field: Annotated[str, Field(pattern="^max_(completion_)?tokens$")] = "max_tokens"
    extra_body: dict[str, Any] = {}
    input_price: NonNegativeFloat = 0.0
    output_price: NonNegativeFloat = 0.0

    @field_validator("url")
    @classmethod
    def _no_secret_in(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http:// or https:// address")
        if parts.username or parts.password or parts.query:
            raise ValueError("must hold no user, password or query; a key comes from key_env or key_file")
        return url.rstrip("/")

    @property
    def asks(self) -> Model:
        """The model as it enters a request's key."""
        extra = json.dumps(self.extra_body, sort_keys=True, ensure_ascii=False)
        return Model(self.url, self.model, self.temperature, self.max_tokens, self.top_p, self.seed, extra)

    def api_key(self) -> str:
        """The key, read when needed and kept in no setting. Raises DataError if its file cannot be read."""
        if self.key_file is None:
            return os.environ.get(self.key_env) or NO_KEY
        try:
            return self.key_file.read_text(encoding="utf-8").strip() or NO_KEY
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot be read ({type(error).__name__})", source=str(self.key_file)) from None


class Limits(_Section):
    """0 is no limit. All but `concurrency`, which each process has for itself, are counted in the store."""

    concurrency: PositiveInt = 8
    background_queue: PositiveInt = 1000
    requests_per_minute: NonNegativeInt = 0
    tokens_per_minute: NonNegativeInt = 0
    calls_per_day: NonNegativeInt = 0
    tokens_per_day: NonNegativeInt = 0
    money_per_day: NonNegativeFloat = 0.0

    @property
    def any(self) -> bool:
        """Whether anything has to be counted before a call may be made."""
        rates, budget = (self.requests_per_minute, self.tokens_per_minute), (self.calls_per_day, self.tokens_per_day)
        return any((*rates, *budget, self.money_per_day))


class Memory(_Section):
    """How long and how much is remembered. `expire_days` 0 is for good."""

    expire_days: NonNegativeFloat = 0.0
    negative_s: PositiveFloat = 300.0
    max_megabytes: PositiveInt = 1024


class BreakerSettings(_Section):
    """Failures in a row that open it, and for how long at first."""

    failures: PositiveInt = 5
    open_s: PositiveFloat = 30.0


class Privacy(_Section):
    """What is masked before a text leaves. With `allow`, all is masked but what matches one of it."""

    redact: tuple[str, ...] = tuple(BUILT_IN)
    patterns: dict[str, str] = {}
    dictionaries: tuple[Path, ...] = ()
    allow: tuple[str, ...] = ()
    audit: Path | None = None

    @field_validator("redact")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        for kind in kinds:
            if kind not in BUILT_IN:
                raise ValueError(f"'{kind}' is none of {', '.join(BUILT_IN)}")
        return kinds

    @model_validator(mode="after")
    def _patterns_compile(self) -> Self:
        for pattern in (*self.patterns.values(), *self.allow):
            try:
                if re.compile(pattern).match(""):
                    raise ValueError(f"the pattern {pattern!r} matches nothing at all, that is, everywhere")
            except re.error as error:
                raise ValueError(f"the pattern {pattern!r} is no regular expression ({error})") from None
        if set(self.patterns) & set(BUILT_IN):
            raise ValueError(f"patterns need names other than {', '.join(BUILT_IN)}")
        return self


class Nearest(_Section):
    """Demonstrations from the nearest sentences of an annotated file instead of the prompt's fixed ones."""

    train: Path
    count: PositiveInt = 8


class BridgeSettings(_Section):
    """`endpoint` in order of preference. `threshold` is the local confidence under which WHEN_UNCERTAIN asks."""

    mode: Mode = Mode.WAIT
    threshold: Annotated[float, Field(ge=0.0, le=1.0)] = 0.8
    store: str = ""
    wait_s: PositiveFloat = 30.0
    reserve_s: NonNegativeFloat = 0.25
    hedge_after_s: NonNegativeFloat = 0.0
    endpoint: tuple[EndpointSettings, ...] = ()
    limits: Limits = Limits()
    memory: Memory = Memory()
    breaker: BreakerSettings = BreakerSettings()
    privacy: Privacy = Privacy()
    demonstrations: dict[str, Nearest] = {}

    @field_validator("store")
    @classmethod
    def _no_password(cls, store: str) -> str:
        if store.startswith(("redis://", "rediss://")) and urlsplit(store).password:
            raise ValueError("must hold no password; it comes from the environment variable SMALLM_REDIS_PASSWORD")
        return store


def load(path: Path | None, **flags: Any) -> BridgeSettings:
    """Settings of a TOML file, with `flags` (those not None) in their place. Raises DataError naming the field.

    Relative paths in the file are relative to the file.
    """
    value: dict[str, Any] = {}
    source = str(path) if path else "flags"
    if path is not None:
        try:
            value = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot be read ({type(error).__name__})", source=source) from None
        except tomllib.TOMLDecodeError as error:
            raise DataError(f"not valid TOML: {error}", source=source) from None
    value |= {name: flag for name, flag in flags.items() if flag is not None}
    try:
        settings = BridgeSettings.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]  # the input may be a key in the wrong place
        raise DataError(first["msg"].removeprefix("Value error, "), source=source, field=_path(first["loc"])) from None
    return settings if path is None else _anchored(settings, path.parent, "store" in flags and bool(flags["store"]))


def _anchored(settings: BridgeSettings, folder: Path, store_from_flag: bool) -> BridgeSettings:
    def at(path: Path | None) -> Path | None:
        return folder / path if path else None

    privacy = settings.privacy
    files = {"dictionaries": tuple(folder / one for one in privacy.dictionaries), "audit": at(privacy.audit)}
    is_file = settings.store and "://" not in settings.store and not store_from_flag
    return settings.model_copy(
        update={
            "store": str(folder / settings.store) if is_file else settings.store,
            "privacy": privacy.model_copy(update=files),
            "endpoint": tuple(one.model_copy(update={"key_file": at(one.key_file)}) for one in settings.endpoint),
            "demonstrations": {
                domain: one.model_copy(update={"train": folder / one.train})
                for domain, one in settings.demonstrations.items()
            },
        }
    )


def _path(steps: tuple[int | str, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
