"""The texts that gates are measured on: a dev file's, or those a model folder carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smallm.alignment import spans_to_tags
from smallm.errors import DataError
from smallm.formats import read_documents
from smallm.llm.recordings import read_answers
from smallm.model_folder import Model, Reference
from smallm.tokenization import TextTokenizer
from smallm.votes import one_hot


@dataclass(frozen=True)
class DevText:
    """See `parity.Text`. What goes beyond an encoder window is left out."""

    ids: NDArray[np.int64]
    votes: NDArray[np.float32]
    tags: NDArray[np.int64]


def calibration(model: Model) -> list[Reference]:
    """The training texts a model carries for calibration (its dev texts if it has none that fit)."""
    return model.train_references or model.dev_references


def references(model: Model) -> list[Reference]:
    """The dev texts a model carries (its training texts if it has none)."""
    return model.dev_references or model.train_references


def from_file(model: Model, tokenizer: TextTokenizer, dev: Path, answers: Path | None) -> list[DevText]:
    """The texts of an annotated file, with votes where `answers` has recorded some. Raises DataError."""
    documents = read_documents(dev)
    texts = [document.text for document in documents]
    spans = read_answers(answers, None, model.prompt).spans(texts) if answers else [None] * len(texts)
    found = []
    for document, answer, tokens in zip(documents, spans, tokenizer.encode_batch(texts), strict=True):
        tokens = tokens[: model.window]
        if not len(tokens):
            continue
        tags = spans_to_tags(document.spans, tokens.offsets, model.labels)
        votes = one_hot(answer, tokens.offsets, model.labels)
        found.append(DevText(np.array(tokens.ids, dtype=np.int64), votes, np.array(tags, dtype=np.int64)))
    if not found:
        raise DataError("holds no text to measure on", source=str(dev))
    return found


def by_domain(
    models: Sequence[Model], tokenizer: TextTokenizer, dev: Sequence[str], answers: Sequence[str]
) -> dict[str, list[DevText]]:
    """`--dev` and `--answers`, each FILE for a single model or DOMAIN=FILE. Raises DataError."""
    files = {name: _named(models, given, name) for name, given in (("--dev", dev), ("--answers", answers))}
    return {
        model.domain: from_file(model, tokenizer, files["--dev"][model.domain], files["--answers"].get(model.domain))
        for model in models
        if model.domain in files["--dev"]
    }


def _named(models: Sequence[Model], given: Sequence[str], option: str) -> dict[str, Path]:
    domains = [model.domain for model in models]
    found = {}
    for value in given:
        domain, separator, file = value.partition("=")
        if not separator and len(domains) == 1:
            domain, file = domains[0], value
        if domain not in domains or not file:
            raise DataError(f"{option} {value}: say DOMAIN=FILE with one of {', '.join(domains)}")
        found[domain] = Path(file)
    return found
