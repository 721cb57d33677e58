"""The systems an experiment compares. A new one is a class with `run` and a line in SYSTEMS."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from smallm.errors import DataError
from smallm_train.experiment.systems.adapted import Adapted
from smallm_train.experiment.systems.base import Curve, Outcome, Part, System
from smallm_train.experiment.systems.bilstm_crf import BiLSTMCRF
from smallm_train.experiment.systems.finetune import FineTuning
from smallm_train.experiment.systems.heads import LocalHead, OurHead, OurHeadUnlabelled, PaperHead
from smallm_train.experiment.systems.llm import LLMOnly

SYSTEMS: dict[str, System] = {
    "llm": LLMOnly(),
    "local": LocalHead(),
    "paper": PaperHead(),
    "ours": OurHead(),
    "unlabelled": OurHeadUnlabelled(),
    "adapted": Adapted(),
    "bilstm_crf": BiLSTMCRF(),
    "finetune": FineTuning(),
}

__all__ = ["SYSTEMS", "Curve", "Outcome", "Part", "System", "options_of", "system_of"]


def system_of(name: str) -> System:
    """A system by name. Raises DataError that lists the known ones."""
    if name not in SYSTEMS:
        raise DataError(f"unknown system '{name}'; known: {', '.join(SYSTEMS)}", field="systems")
    return SYSTEMS[name]


def options_of(name: str, given: Mapping[str, Any]) -> Any:
    """The system's options (a dataclass) with what is given replaced. Raises DataError naming the field.

    The seed is no option: it is an axis of the experiment.
    """
    kind = system_of(name).options
    known = [field.name for field in dataclasses.fields(kind) if field.name != "seed"]
    for option in given:
        if option not in known:
            raise DataError(f"unknown option; known: {', '.join(known) or 'none'}", field=f"options.{name}.{option}")
    try:
        return TypeAdapter(kind).validate_python(dict(given), strict=False)
    except ValidationError as error:
        mistake = error.errors()[0]
        place = ".".join(str(part) for part in ("options", name, *mistake["loc"]))
        raise DataError(mistake["msg"].lower(), field=place) from None
