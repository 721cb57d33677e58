"""All a bridge can be told, as one TOML file or the few flags of `smallm serve`. Nothing else holds a default."""

from __future__ import annotations

import json
import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from smallm.configuration import Section, Steps, anchored, checked, line_of, read_toml
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


class EndpointSettings(Section):
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


class Limits(Section):
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


class Memory(Section):
    """How long and how much is remembered. `expire_days` 0 is for good."""

    expire_days: NonNegativeFloat = 0.0
    negative_s: PositiveFloat = 300.0
    max_megabytes: PositiveInt = 1024


class BreakerSettings(Section):
    """Failures in a row that open it, and for how long at first."""

    failures: PositiveInt = 5
    open_s: PositiveFloat = 30.0


class Privacy(Section):
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


class Nearest(Section):
    """Demonstrations from the nearest sentences of an annotated file instead of the prompt's fixed ones."""

    train: Path
    count: PositiveInt = 8


class BridgeSettings(Section):
    """`endpoint` in order of preference. `threshold` is the local confidence under which WHEN_UNCERTAIN asks."""

    mode: Mode = Mode.WAIT
    threshold: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
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

    def anchored(self, folder: Path, store_is: bool = False) -> Self:
        """These settings with relative paths taken from `folder`, but for the store's if `store_is` from elsewhere."""
        is_file = bool(self.store) and "://" not in self.store and not store_is
        return anchored(self, folder).model_copy(update={"store": str(folder / self.store) if is_file else self.store})


def load(path: Path | None, **flags: Any) -> BridgeSettings:
    """Settings of a TOML file, with `flags` (those not None) in their place. Raises DataError naming the field.

    Relative paths in the file are relative to the file.
    """
    given = {name: flag for name, flag in flags.items() if flag is not None}
    value = (read_toml(path) if path else {}) | given

    def where(steps: Steps) -> tuple[str, int]:
        if path is None or (steps and steps[0] in given):
            return "flags", 0
        return str(path), line_of(path.read_text(encoding="utf-8"), steps)

    settings = checked(BridgeSettings.model_validate, value, where)
    return settings if path is None else settings.anchored(path.parent, "store" in given)
