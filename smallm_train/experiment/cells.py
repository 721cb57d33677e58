"""Cells: one training of one system, its settings, and the JSON file its predictions are kept in.

A cell's file name ends in a hash of all its settings, so that a changed setting is another cell and
never mixed with the old one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from smallm import atomic
from smallm.documents import Span
from smallm.errors import ArtifactError
from smallm.scoring import score
from smallm_train.experiment.datasets import Dataset, as_lists
from smallm_train.experiment.plan import Plan, Size
from smallm_train.experiment.systems import SYSTEMS, Outcome, Part, options_of

FORMAT = 1
_PACKAGES = Path(__file__).parent.parent, Path(__file__).parent / "systems"


@dataclass(frozen=True)
class Cell:
    """One training. `options` are all of the system's, `encoder` the fingerprint ("" if it uses none)."""

    dataset: str
    data: str
    division: dict[str, Any]
    system: str
    size: Size
    seed: int
    fold: int
    options: dict[str, Any]
    encoder: str

    @property
    def key(self) -> str:
        """A hash of every setting."""
        settings = json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(settings.encode()).hexdigest()[:16]

    def file(self, out: Path) -> Path:
        """Where its result is kept."""
        return out / "cells" / self.dataset / f"{self.system}-{self.size}-s{self.seed}-f{self.fold}-{self.key}.json"


@dataclass(frozen=True)
class Result:
    """What a finished cell found. `predictions` maps a curve to the spans of each text of `test_index`."""

    cell: Cell
    test_index: list[int]
    predictions: dict[str, list[list[Span]]]
    dev_f1: dict[str, float]
    test_f1: dict[str, float]
    figures: dict[str, Any]
    parameters: int
    seconds: float
    train_texts: int
    dev_texts: int
    code: str


def grid(plan: Plan, datasets: dict[str, Dataset], encoder: str) -> Iterator[Cell]:
    """Every cell of an experiment. A system that is not trained has one cell a fold.

    A dataset without answers has no cells of a system that needs them. `encoder` is the fingerprint of the
    plan's encoder. Raises DataError for options a system lacks.
    """
    for dataset in datasets.values():  # outermost: a worker keeps the encoded texts of one dataset
        sizes = dataset.sizes(plan.sizes)
        for name in plan.systems:
            system, options = SYSTEMS[name], options_of(name, plan.options.get(name, {}))
            points = [(size, seed) for size in sizes for seed in plan.seeds] if system.trained else [(0, plan.seeds[0])]
            if system.needs_answers and dataset.prompt is None:
                continue
            for size, seed in points:
                for fold in dataset.folds():
                    yield Cell(
                        dataset=dataset.plan.name,
                        data=dataset.fingerprint,
                        division={
                            "folds": dataset.plan.folds,
                            "dev_share": dataset.plan.dev_share if dataset.plan.folds else None,
                            "dev_limit": dataset.plan.dev_limit,
                        },
                        system=name,
                        size=size,
                        seed=seed,
                        fold=fold,
                        options=asdict(options),
                        encoder=encoder if system.uses_encoder else "",
                    )


def write(out: Path, cell: Cell, part: Part, outcome: Outcome) -> None:
    """Keep a finished cell, in one step."""
    dev_gold = [document.spans for document in part.dev.documents]
    test_gold = [document.spans for document in part.test.documents]
    dev_f1 = {name: score(dev_gold, curve.dev)["f1"] for name, curve in outcome.curves.items()}
    test_f1 = {name: score(test_gold, curve.test)["f1"] for name, curve in outcome.curves.items()}
    value = {
        "format": FORMAT,
        "settings": asdict(cell),
        "code": code_fingerprint(),
        "dev_f1": dev_f1,
        "test_f1": test_f1,
        "chosen_on_dev": outcome.figures,
        "parameters": outcome.parameters,
        "train_seconds": round(outcome.seconds, 3),
        "train_texts": len(part.train.documents),
        "dev_texts": len(part.dev.documents),
        "dev_ids": [document.id for document in part.dev.documents],
        "test_ids": [document.id for document in part.test.documents],
        "test_index": part.test_index,
        "predictions": {
            name: {"dev": [as_lists(spans) for spans in curve.dev], "test": [as_lists(spans) for spans in curve.test]}
            for name, curve in outcome.curves.items()
        },
    }
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    atomic.write_text(cell.file(out), text + "\n")


def read(out: Path, cell: Cell) -> Result | None:
    """A finished cell's result, None if it is still to be made. Raises ArtifactError for a damaged file."""
    file = cell.file(out)
    if not file.is_file():
        return None
    value = atomic.read_versioned(file, FORMAT, "`smallm experiment` writes such a file")
    try:
        curves = value["predictions"].items()
        return Result(
            cell=cell,
            test_index=[int(index) for index in value["test_index"]],
            predictions={name: [[Span(*span) for span in spans] for spans in both["test"]] for name, both in curves},
            dev_f1=value["dev_f1"],
            test_f1=value["test_f1"],
            figures=value["chosen_on_dev"],
            parameters=int(value["parameters"]),
            seconds=float(value["train_seconds"]),
            train_texts=int(value["train_texts"]),
            dev_texts=int(value["dev_texts"]),
            code=str(value["code"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{file}: damaged cell ({error}); delete it and run again") from None


@cache
def code_fingerprint() -> str:
    """A hash of the training code. No part of a key, or a comment would cost a night; differences are reported."""
    digest = hashlib.sha256()
    for folder in _PACKAGES:
        for file in sorted(folder.glob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
