"""Finished cells of one dataset, pooled: folds joined, seeds side by side, the LLM repeated at every size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from smallm.documents import Document, Span
from smallm_train.bootstrap import Counts, count
from smallm_train.experiment.cells import Result
from smallm_train.experiment.datasets import Dataset
from smallm_train.experiment.plan import ALL, Plan, Size
from smallm_train.experiment.systems import SYSTEMS

Texts = list[list[Span]]
ORDER = ("llm", "local", "bilstm_crf", "finetune", "paper.local", "paper.fused", "paper.served")


@dataclass(frozen=True)
class Point:
    """One curve at one size: every complete seed's predictions of every scored text, and its cells."""

    curve: str
    size: Size
    seeds: dict[int, Texts]
    cells: list[Result]

    def dev_f1(self) -> float:
        """Mean dev F1 over the cells."""
        return sum(cell.dev_f1[self.curve] for cell in self.cells) / len(self.cells)

    def train_texts(self) -> float:
        """Mean number of training texts over the cells."""
        return sum(cell.train_texts for cell in self.cells) / len(self.cells)


class Pool:
    """The points of one dataset."""

    def __init__(self, dataset: Dataset, plan: Plan, results: Iterable[Result]) -> None:
        self.dataset = dataset
        self._asked = sorted(dataset.sizes(plan.sizes), key=size_order)
        self._results = [result for result in results if result.cell.dataset == dataset.plan.name]

    @property
    def documents(self) -> list[Document]:
        """The scored texts."""
        return self.dataset.scored.documents

    @cached_property
    def points(self) -> dict[tuple[str, Size], Point]:
        """Points by curve and size. A seed counts only when all its folds are finished."""
        groups: dict[tuple[str, Size], dict[int, list[Result]]] = defaultdict(lambda: defaultdict(list))
        for result in self._results:
            sizes = [result.cell.size] if SYSTEMS[result.cell.system].trained else self._asked
            for curve in result.predictions:
                for size in sizes:
                    groups[curve, size][result.cell.seed].append(result)
        points = {}
        for (curve, size), seeds in groups.items():
            complete = {seed: cells for seed, cells in sorted(seeds.items()) if len(cells) == len(self.dataset.folds())}
            if complete:
                pooled = {seed: self._join(cells, curve) for seed, cells in complete.items()}
                points[curve, size] = Point(
                    curve, size, pooled, [cell for cells in complete.values() for cell in cells]
                )
        return points

    @property
    def curves(self) -> list[str]:
        """Curves with a point, baselines first."""
        found = dict.fromkeys(curve for curve, _ in self.points)
        return sorted(found, key=lambda curve: (ORDER.index(curve) if curve in ORDER else len(ORDER), curve))

    @property
    def sizes(self) -> list[Size]:
        """Sizes with a point of a trained system (or of anything, if none is trained), ascending."""
        trained = {size for (_, size), point in self.points.items() if SYSTEMS[point.cells[0].cell.system].trained}
        return [size for size in self._asked if size in (trained or {size for _, size in self.points})]

    def counts(self, point: Point) -> Counts:
        """Strict counts of a point's predictions; see `bootstrap.Counts`."""
        return count([document.spans for document in self.documents], list(point.seeds.values()))

    def _join(self, cells: list[Result], curve: str) -> Texts:
        joined: Texts = [[] for _ in self.documents]
        for cell in cells:
            for index, spans in zip(cell.test_index, cell.predictions[curve], strict=True):
                joined[index] = spans
        return joined


def size_order(size: Size) -> float:
    """Sorts sizes, `all` last."""
    return float("inf") if size == ALL else float(size)
