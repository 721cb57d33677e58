"""The LLM's recorded answers alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from smallm_train.data import Split
from smallm_train.experiment.systems.base import Curve, Outcome, Part, Predictions
from smallm_train.features import FrozenEncoder


@dataclass(frozen=True)
class NoOptions:
    """Nothing to set."""


class LLMOnly:
    """See the module. A text without an answer has no entities."""

    trained = False
    uses_encoder = False
    needs_answers = True
    options = NoOptions

    def run(self, part: Part, encoder: FrozenEncoder | None, seed: int, options: Any) -> Outcome:
        """See `System.run`."""
        return Outcome({"llm": Curve(_answered(part.dev), _answered(part.test))})


def _answered(split: Split) -> Predictions:
    return [list(answer or ()) for answer in split.answers]
