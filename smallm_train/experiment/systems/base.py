"""What a system is to the harness."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from smallm.documents import Span
from smallm.labels import LabelSet
from smallm_train.data import Split
from smallm_train.features import FrozenEncoder

Predictions = list[list[Span]]
"""The predicted spans of each text."""


@dataclass(frozen=True)
class Curve:
    """Predictions for the dev and test texts, in order."""

    dev: Predictions
    test: Predictions


@dataclass(frozen=True)
class Outcome:
    """What one training gave: its curves by name, and what was chosen on dev to make them.

    A system with one curve names it like itself, one with several `system.way`. `parameters` are the
    trainable ones, `seconds` the wall clock of training alone.
    """

    curves: dict[str, Curve]
    figures: dict[str, Any] = field(default_factory=dict)
    parameters: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Part:
    """What one training sees. `test_index` is each test text's place in `Dataset.scored`.

    `unlabelled` are texts of the domain whose labels are not to be used: the training texts that a subset leaves out.
    """

    train: Split
    dev: Split
    test: Split
    unlabelled: Split
    test_index: list[int]
    labels: LabelSet


class System(Protocol):
    """A way to recognise entities, from a training split.

    trained: whether size and seed change it.  uses_encoder: whether `run` is given one.
    needs_answers: whether it makes no sense without the LLM.  options: a dataclass of its settings.
    """

    @property
    def trained(self) -> bool:
        """See above."""

    @property
    def uses_encoder(self) -> bool:
        """See above."""

    @property
    def needs_answers(self) -> bool:
        """See above."""

    @property
    def options(self) -> type:
        """See above."""

    def run(self, part: Part, encoder: FrozenEncoder | None, seed: int, options: Any) -> Outcome:
        """Train on `train`, choose on `dev`, predict both `dev` and `test`. The labels of `test` must not be used."""
