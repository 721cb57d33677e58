"""Running the cells that are still missing, in one process or several, each with a single torch thread."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from smallm.encoder import resolve
from smallm_train.experiment import cells
from smallm_train.experiment.cells import Cell
from smallm_train.experiment.datasets import Dataset
from smallm_train.experiment.encoders import PooledEncoder
from smallm_train.experiment.plan import Plan
from smallm_train.experiment.systems import SYSTEMS, options_of


class Worker:
    """Runs cells one after another; keeps the encoder, and its states of one dataset, between them."""

    def __init__(self, datasets: dict[str, Dataset], encoder: str, out: Path) -> None:
        self._datasets, self._name, self._out = datasets, encoder, out
        self._encoder: PooledEncoder | None = None
        self._filled = ""

    def run(self, cell: Cell) -> str:
        """Train, predict and keep one cell; what it was, in words."""
        system, dataset = SYSTEMS[cell.system], self._datasets[cell.dataset]
        part = dataset.part(cell.size, cell.seed, cell.fold)
        encoder = self.pooled(dataset) if system.uses_encoder else None
        options = options_of(cell.system, {name: value for name, value in cell.options.items() if name != "seed"})
        outcome = system.run(part, encoder, cell.seed, options)
        cells.write(self._out, cell, part, outcome)
        return f"{cell.dataset} {cell.system} {cell.size}"

    def pooled(self, dataset: Dataset) -> PooledEncoder:
        """The encoder with the dataset's texts in its pool."""
        if self._encoder is None:
            self._encoder = PooledEncoder(resolve(self._name))
        if self._filled != dataset.plan.name:
            self._encoder.fill([document.text for split in dataset.splits.values() for document in split.documents])
            self._filled = dataset.plan.name
        return self._encoder


def run_missing(plan: Plan, datasets: dict[str, Dataset], missing: Sequence[Cell]) -> None:
    """Run `missing` with a progress bar. Whatever stops it, finished cells stay and unfinished ones leave nothing."""
    columns = (TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=len(missing))
        for done in _done(plan, datasets, missing):
            bar.update(task, advance=1, description=done)


def _done(plan: Plan, datasets: dict[str, Dataset], missing: Sequence[Cell]) -> Iterator[str]:
    if plan.jobs == 1 or len(missing) < 2:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in several processes: figures must not depend on `jobs`
        try:
            worker = Worker(datasets, plan.encoder, plan.out)
            for cell in missing:
                yield worker.run(cell)
        finally:
            torch.set_num_threads(threads)
        return
    _encode_once(plan, datasets, missing)
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    arguments = (datasets, plan.encoder, plan.out)
    with ProcessPoolExecutor(plan.jobs, context, initializer=_start, initargs=arguments) as pool:
        futures = [pool.submit(_run, cell) for cell in missing]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _encode_once(plan: Plan, datasets: dict[str, Dataset], missing: Sequence[Cell]) -> None:
    """Fill the cache on disk before the workers start, or each would encode the same texts."""
    names = {cell.dataset for cell in missing if SYSTEMS[cell.system].uses_encoder}
    worker = Worker(datasets, plan.encoder, plan.out)
    for name in sorted(names):
        worker.pooled(datasets[name])


_worker: Worker | None = None  # one a process


def _start(datasets: dict[str, Dataset], encoder: str, out: Path) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; what is running is finished and kept
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _worker = Worker(datasets, encoder, out)


def _end_with_parent() -> None:
    """A killed parent cannot stop its workers, which would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(cell: Cell) -> str:
    assert _worker is not None
    return _worker.run(cell)
