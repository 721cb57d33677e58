"""`smallm experiment`: run what is missing of an experiment file, then write its report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from smallm.encoder import resolve
from smallm.errors import DataError
from smallm_train.experiment import cells, report
from smallm_train.experiment.datasets import Dataset, read_dataset
from smallm_train.experiment.plan import Plan, read_plan
from smallm_train.experiment.runner import run_missing
from smallm_train.experiment.systems import options_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("file", type=Path, help="experiment file (.toml), see docs/experiments.md")
    parser.add_argument("--data", type=Path, help="root of the datasets, instead of the file's 'data'")
    parser.add_argument("--answers", type=Path, help="root of the LLM answers, instead of the file's 'answers'")
    parser.add_argument("--encoder", help="'embedded', a folder or a Hugging Face name, instead of the file's")
    parser.add_argument("--out", type=Path, help="output folder, instead of the file's 'out'")
    parser.add_argument("--jobs", type=int, help="processes, instead of the file's 'jobs'")
    parser.add_argument("--report-only", action="store_true", help="train nothing; report the finished cells")
    parser.add_argument("--redo", action="store_true", help="make cells of another version of the training code again")


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    if args.jobs is not None and args.jobs < 1:
        raise DataError("--jobs is at least 1")
    given: dict[str, Any] = {name: getattr(args, name) for name in ("data", "answers", "encoder", "out", "jobs")}
    plan = read_plan(args.file, {name: value for name, value in given.items() if value is not None})
    try:
        for name in plan.systems:
            options_of(name, plan.options.get(name, {}))
        datasets = {dataset.name: read_dataset(dataset, plan) for dataset in plan.datasets}
        grid = list(cells.grid(plan, datasets, resolve(plan.encoder).fingerprint))
    except DataError as error:
        if error.source:
            raise
        raise DataError(
            str(error).removeprefix(f"field '{error.field}': "), source=str(args.file), field=error.field
        ) from None
    _run(plan, datasets, grid, args)
    finished = [result for cell in grid if (result := cells.read(plan.out, cell)) is not None]
    if not finished:
        raise DataError(f"no finished cell in {plan.out}; run without --report-only", source=str(args.file))
    report.write(plan, datasets, grid, finished)
    print(f"{len(finished)} of {len(grid)} cells finished; report in {plan.out / 'report.md'}")
    return 0


def _run(plan: Plan, datasets: dict[str, Dataset], grid: list[cells.Cell], args: argparse.Namespace) -> None:
    results = {cell.key: cells.read(plan.out, cell) for cell in grid}
    outdated = {key for key, one in results.items() if one is not None and one.code != cells.code_fingerprint()}
    again = outdated if args.redo else set()
    missing = [cell for cell in grid if results[cell.key] is None or cell.key in again]
    for dataset in datasets.values():
        if dataset.prompt is None:
            print(f"{dataset.plan.name}: no answers, so nothing that needs the LLM, and no size 0")
    print(f"{len(grid)} cells, {len(grid) - len(missing)} finished before")
    if outdated and not args.redo:
        print(f"{len(outdated)} of those were made by another version of the training code; --redo makes them again")
    if missing and not args.report_only:
        run_missing(plan, datasets, missing)
