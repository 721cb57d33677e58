"""A data folder (train/dev/test), how much of it to use, and the LLM's answers to it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smallm.documents import Document, Span, label_set
from smallm.errors import DataError
from smallm.formats import SUFFIXES, read_documents, read_texts
from smallm.labels import LabelSet
from smallm.llm.prompt import Prompt
from smallm.llm.recordings import RecordedAnswers


@dataclass(frozen=True)
class Split:
    """Documents and the LLM's spans for each, None where it is absent."""

    documents: list[Document]
    answers: list[list[Span] | None]

    @property
    def answered(self) -> int:
        """How many documents have an LLM answer."""
        return sum(answer is not None for answer in self.answers)


@dataclass(frozen=True)
class TrainingData:
    """What a head is trained and chosen on."""

    labels: LabelSet
    train: Split
    dev: Split
    unlabelled: Split
    prompt: Prompt | None


def read_training_data(
    folder: Path,
    recorded: RecordedAnswers | None,
    shots: int | None = None,
    seed: int = 0,
    unlabelled: Path | None = None,
) -> TrainingData:
    """Read train and dev from `folder`; keep `shots` training documents if given.

    Of the file of texts `unlabelled` those are kept that are neither in train nor in dev and that the LLM has answered.

    Raises DataError if a file is missing or malformed, or if the answers fit none of the texts.
    """
    train_file, dev_file = find_split(folder, "train"), find_split(folder, "dev")
    documents, dev_documents = read_documents(train_file), read_documents(dev_file)
    prompt = recorded.prompt if recorded else None
    if shots is not None:
        documents = nested_subset(documents, shots, seed, prompt, str(train_file))
    labels = labels_for(documents, prompt, str(train_file))
    train, dev = (_answered(part, recorded) for part in (documents, dev_documents))
    if recorded and not train.answered and not dev.answered:
        raise DataError(f"the recorded answers fit none of the texts in {folder}", source="--answers")
    rest = _unlabelled(unlabelled, recorded, [*documents, *dev_documents]) if unlabelled else Split([], [])
    return TrainingData(labels, train, dev, rest, prompt)


def nested_subset(
    documents: Sequence[Document], shots: int, seed: int, prompt: Prompt | None, source: str
) -> list[Document]:
    """The first `shots` documents of a seeded order, so that a smaller subset lies within a larger one.

    The prompt's demonstrations are labels the LLM has seen: they come first and count.
    """
    fewest = 0 if prompt else 1  # without labels and without an LLM there is nothing to go by
    if not fewest <= shots <= len(documents):
        raise DataError(f"--shots {shots} is not between {fewest} and the {len(documents)} documents", source=source)

    def rank(document: Document) -> tuple[bool, str]:
        shown = prompt is not None and prompt.is_demonstration(document.text)
        return not shown, hashlib.sha256(f"{seed} {document.id} {document.text}".encode()).hexdigest()

    return sorted(documents, key=rank)[:shots]


def find_split(folder: Path, name: str) -> Path:
    """The file of split `name` in `folder`. Raises DataError if there is none."""
    for suffix in SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise DataError(f"no {name} file; expected {name}.jsonl (or {', '.join(list(SUFFIXES)[1:])})", source=str(folder))


def labels_for(documents: Sequence[Document], prompt: Prompt | None, source: str) -> LabelSet:
    """The prompt's types in its order (the LLM may answer one that few shots lack), then any others."""
    present = label_set(documents).types if any(document.spans for document in documents) else ()
    asked = prompt.type_names if prompt else ()
    if not present and not asked:
        raise DataError("no document has an entity", source=source)
    return LabelSet((*asked, *(name for name in present if name not in asked)))


def _unlabelled(path: Path, recorded: RecordedAnswers | None, known: Sequence[Document]) -> Split:
    if recorded is None:
        raise DataError("what is learned from unlabelled texts is the LLM's answers: give --answers", source=str(path))
    texts = dict.fromkeys(read_texts(path))
    for document in known:
        texts.pop(document.text, None)
    split = _answered([Document(str(number), text, ()) for number, text in enumerate(texts, start=1)], recorded)
    kept = [(d, answer) for d, answer in zip(split.documents, split.answers, strict=True) if answer is not None]
    if not kept:
        raise DataError("the recorded answers fit none of its texts beyond train and dev", source=str(path))
    return Split([document for document, _ in kept], [answer for _, answer in kept])


def _answered(documents: list[Document], recorded: RecordedAnswers | None) -> Split:
    texts = [document.text for document in documents]
    return Split(documents, recorded.spans(texts) if recorded else [None] * len(documents))
