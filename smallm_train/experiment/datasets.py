"""A dataset of an experiment: which texts are trained on, chosen on and scored, for each fold and size."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from smallm.documents import Span
from smallm.errors import DataError
from smallm.formats import read_documents
from smallm.llm.prompt import Prompt
from smallm.llm.recordings import RecordedAnswers, read_answers
from smallm_train.data import Split, find_split, labels_for, nested_subset
from smallm_train.experiment.plan import ALL, DatasetPlan, Plan, Size
from smallm_train.experiment.systems.base import Part

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Dataset:
    """All texts of a dataset with the LLM's answers, and how they are divided.

    `scored` are the texts a score is over: the test split, or with k-fold every answered text.
    """

    plan: DatasetPlan
    splits: dict[str, Split]
    recorded: RecordedAnswers | None
    fingerprint: str

    @property
    def scored(self) -> Split:
        """The texts whose pooled predictions are scored, in order."""
        return self.splits["test"] if self.plan.folds is None else self._answered

    @property
    def prompt(self) -> Prompt | None:
        """The prompt the answers belong to."""
        return self.recorded.prompt if self.recorded else None

    def sizes(self, asked: Sequence[Size]) -> list[Size]:
        """The training sizes there are enough texts for; a number that equals all of them is `all`."""
        available = len(self.splits["train"].documents)
        if self.plan.folds is not None:
            available = min(len(self._divided(seed=0, fold=fold)[0]) for fold in range(self.plan.folds))
        wanted = self.plan.sizes or asked
        fitting = [
            size for size in wanted if size == ALL or size < available or (size == available and ALL not in wanted)
        ]
        return [size for size in fitting if size != 0 or self.prompt is not None]

    def folds(self) -> range:
        """Numbers of the trainings that one score takes."""
        return range(self.plan.folds or 1)

    def part(self, size: Size, seed: int, fold: int = 0) -> Part:
        """The splits of one training: `size` texts of a nested subset drawn with `seed`."""
        if self.plan.folds is None:
            train, dev, test = (self.splits[name] for name in SPLITS)
            test_index = list(range(len(test.documents)))
        else:
            indices = self._divided(seed, fold)
            train, dev, test = (_select(self._answered, part) for part in indices)
            test_index = indices[2]
        prompt = self.prompt
        shots = len(train.documents) if size == ALL else size
        chosen = _subset(train, shots, seed, prompt, self.plan.name)
        if self.plan.dev_limit is not None:
            dev = _subset(dev, min(self.plan.dev_limit, len(dev.documents)), seed, None, self.plan.name)
        rest = _without(train, chosen)
        return Part(chosen, dev, test, rest, test_index, labels_for(chosen.documents, prompt, self.plan.name))

    @cached_property
    def _answered(self) -> Split:
        """Every text of the three splits that has an LLM answer: a prompt's demonstrations have none."""
        documents = [document for name in SPLITS for document in self.splits[name].documents]
        answers = [answer for name in SPLITS for answer in self.splits[name].answers]
        return _select(Split(documents, answers), [i for i, answer in enumerate(answers) if answer is not None])

    def _divided(self, seed: int, fold: int) -> tuple[list[int], list[int], list[int]]:
        """Indices into `scored` of train, dev and test. Equal texts share a fold: none is trained on and scored."""
        assert self.plan.folds is not None
        documents = self._answered.documents
        texts = sorted({document.text for document in documents}, key=lambda text: _rank(text, seed))
        group = {text: number % self.plan.folds for number, text in enumerate(texts)}
        others = [text for text in texts if group[text] != fold]
        dev_texts = set(others[: max(1, round(self.plan.dev_share * len(others)))])
        parts: tuple[list[int], list[int], list[int]] = ([], [], [])
        for index, document in enumerate(documents):
            which = 2 if group[document.text] == fold else int(document.text in dev_texts)
            parts[which].append(index)
        return parts


def read_dataset(dataset: DatasetPlan, plan: Plan) -> Dataset:
    """Read a dataset's files. Raises DataError if something is missing, malformed, or fits nothing."""
    folder = dataset.data or (plan.data / dataset.name if plan.data else None)
    if folder is None:
        raise DataError("no 'data' here or at the top of the file; or give --data", field=f"datasets.{dataset.name}")
    answers = dataset.answers or (plan.answers / dataset.name / "responses.jsonl" if plan.answers else None)
    recorded = read_answers(answers, dataset.prompt) if answers else None
    splits = {}
    for name in SPLITS:
        documents = read_documents(find_split(folder, name))
        texts = [document.text for document in documents]
        splits[name] = Split(documents, recorded.spans(texts) if recorded else [None] * len(documents))
    if recorded and not any(split.answered for split in splits.values()):
        raise DataError(f"the recorded answers fit none of the texts in {folder}", source=str(answers))
    read = Dataset(dataset, splits, recorded, _fingerprint(splits, recorded))
    if dataset.folds is not None and len(read.scored.documents) < 2 * dataset.folds:
        raise DataError(
            f"{dataset.folds} folds need at least {2 * dataset.folds} texts with an LLM answer; "
            f"{len(read.scored.documents)} have one",
            source=str(folder),
        )
    return read


def _subset(split: Split, shots: int, seed: int, prompt: Prompt | None, source: str) -> Split:
    """`nested_subset` of a split's documents, with their answers."""
    if shots == 0:
        return Split([], [])
    chosen = nested_subset(split.documents, shots, seed, prompt, source)
    places = {id(document): index for index, document in enumerate(split.documents)}
    return _select(split, [places[id(document)] for document in chosen])


def _without(split: Split, chosen: Split) -> Split:
    """The documents of `split` with none of the chosen ones' texts."""
    known = {document.text for document in chosen.documents}
    return _select(split, [index for index, document in enumerate(split.documents) if document.text not in known])


def _select(split: Split, indices: Sequence[int]) -> Split:
    return Split([split.documents[index] for index in indices], [split.answers[index] for index in indices])


def _rank(text: str, seed: int) -> str:
    return hashlib.sha256(f"fold {seed} {text}".encode()).hexdigest()


def _fingerprint(splits: dict[str, Split], recorded: RecordedAnswers | None) -> str:
    """A hash of every text, label and answer: cells of other data are never mixed with these."""
    digest = hashlib.sha256(json.dumps(recorded.prompt.to_json() if recorded else None, sort_keys=True).encode())
    for name, split in splits.items():
        for value in _plain(name, split):
            digest.update(json.dumps(value, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()[:32]


def _plain(name: str, split: Split) -> Iterator[object]:
    for document, answer in zip(split.documents, split.answers, strict=True):
        yield [name, document.id, document.text, as_lists(document.spans), answer and as_lists(answer), answer is None]


def as_lists(spans: Sequence[Span]) -> list[list[int | str]]:
    """Spans as JSON holds them: [start, end, type]."""
    return [[span.start, span.end, span.type] for span in spans]
