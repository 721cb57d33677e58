"""Everything the report says, as plain numbers: the content of results.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallm import __version__
from smallm_train import bootstrap
from smallm_train.experiment import errors
from smallm_train.experiment.cells import Cell, Result
from smallm_train.experiment.datasets import Dataset
from smallm_train.experiment.plan import Plan
from smallm_train.experiment.pooling import Point, Pool

FORMAT = 1
RESCUES = (("local", "ours.fused"), ("ours.local", "ours.fused"), ("llm", "ours.fused"), ("llm", "paper.fused"))


def summarise(
    plan: Plan, datasets: dict[str, Dataset], grid: Sequence[Cell], finished: Sequence[Result]
) -> dict[str, Any]:
    """All figures (F1 as fractions) by dataset, with what they were made from."""
    return {
        "format": FORMAT,
        "name": plan.name,
        "smallm": __version__,
        "encoder": plan.encoder,
        "encoder_fingerprint": next((cell.encoder for cell in grid if cell.encoder), ""),
        "seeds": list(plan.seeds),
        "resamples": plan.resamples,
        "cells": len(grid),
        "finished": len(finished),
        "code": dict(Counter(result.code for result in finished)),
        "datasets": {name: _dataset(Pool(dataset, plan, finished), plan) for name, dataset in datasets.items()},
    }


def _dataset(pool: Pool, plan: Plan) -> dict[str, Any]:
    weights = bootstrap.resample(len(pool.documents), plan.resamples)
    last = pool.sizes[-1:]
    largest = {
        curve: pool.points[curve, size] for size in last for curve in pool.curves if (curve, size) in pool.points
    }
    return {
        "texts": len(pool.documents),
        "entities": sum(len(document.spans) for document in pool.documents),
        "answered": pool.dataset.scored.answered,
        "folds": pool.dataset.plan.folds,
        "sizes": pool.sizes,
        "curves": {
            curve: [
                _point(pool, pool.points[curve, size], weights) for size in pool.sizes if (curve, size) in pool.points
            ]
            for curve in pool.curves
        },
        "differences": list(_differences(pool, plan, weights)),
        "scenarios": {curve: _scenarios(pool, point) for curve, point in largest.items()},
        "matching": {curve: _matching(pool, point) for curve, point in largest.items()},
        "tokens": [
            _rescue(pool, largest[before], largest[after])
            for before, after in RESCUES
            if before in largest and after in largest
        ],
    }


def _point(pool: Pool, point: Point, weights: NDArray[np.int64]) -> dict[str, Any]:
    counts = pool.counts(point)
    figures = [cell.figures for cell in point.cells]
    ways = Counter(figure["way"] for figure in figures if "way" in figure)
    return {
        "size": point.size,
        "train_texts": point.train_texts(),
        "seeds": list(point.seeds),
        "test": asdict(bootstrap.interval(counts, weights)),
        "test_by_seed": [float(bootstrap.mean_f1(counts[index : index + 1])[0]) for index in range(len(counts))],
        "dev": point.dev_f1(),
        "dev_texts": mean(cell.dev_texts for cell in point.cells),
        "ways": dict(ways),
        "epochs": mean(figure["epoch"] for figure in figures) if all("epoch" in one for one in figures) else None,
        "parameters": max(cell.parameters for cell in point.cells),
        "train_seconds": mean(cell.seconds for cell in point.cells),
    }


def _differences(pool: Pool, plan: Plan, weights: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    for first, second in plan.compare:
        for size in pool.sizes:
            if (first, size) in pool.points and (second, size) in pool.points:
                counts = [pool.counts(pool.points[curve, size]) for curve in (first, second)]
                found = bootstrap.difference(counts[0], counts[1], weights)
                yield {"first": first, "second": second, "size": size, **asdict(found)}


def _scenarios(pool: Pool, point: Point) -> dict[str, Any]:
    """Shares of all predictions over all seeds, %, and gold entities that no prediction equals, %."""
    gold = [document.spans for document in pool.documents]
    found: Counter[errors.Scenario] = Counter()
    for texts in point.seeds.values():
        found += errors.scenarios(gold, texts)
    if point.curve == "llm" and pool.dataset.recorded is not None:
        found += errors.fabrications(pool.documents, pool.dataset.recorded)
    total, entities = sum(found.values()), len(point.seeds) * sum(len(spans) for spans in gold)
    shares = {str(kind): 100 * found[kind] / total if total else 0.0 for kind in errors.Scenario}
    missed = entities - found[errors.Scenario.CORRECT]
    return {"size": point.size, "predictions": total, "shares": shares, "missed": 100 * missed / max(1, entities)}


def _matching(pool: Pool, point: Point) -> dict[str, float]:
    """nervaluate's figures, mean over seeds."""
    gold = [document.spans for document in pool.documents]
    found = [asdict(errors.matching(gold, texts)) for texts in point.seeds.values()]
    return {name: mean(one[name] for one in found) for name in found[0]}


def _rescue(pool: Pool, before: Point, after: Point) -> dict[str, Any]:
    """Mean over seeds; where only one side has several, its every seed against the other's one."""
    seeds = sorted(set(before.seeds) | set(after.seeds))
    pairs = [(_of(before, seed), _of(after, seed)) for seed in seeds]
    found = [errors.rescued_and_harmed(pool.documents, *pair) for pair in pairs if None not in pair]
    return {
        "before": before.curve,
        "after": after.curve,
        "size": after.size,
        "rescued": mean(one.rescued for one in found),
        "harmed": mean(one.harmed for one in found),
        "tokens": found[0].tokens,
    }


def _of(point: Point, seed: int) -> Any:
    return next(iter(point.seeds.values())) if len(point.seeds) == 1 else point.seeds.get(seed)
