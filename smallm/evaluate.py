"""`smallm evaluate`: strict precision, recall and F1 of LLM-only, local-only and fused."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from smallm.commands import Recognizer, load_recognizer
from smallm.documents import Document, Span
from smallm.errors import DataError
from smallm.formats import read_documents
from smallm.fusion import Way
from smallm.llm.recordings import read_answers
from smallm.scoring import score


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("model", type=Path, help="model folder, or bundle")
    parser.add_argument("data", type=Path, help="annotated file (.jsonl or .conll)")
    parser.add_argument("--answers", type=Path, help="recorded LLM answers (.jsonl); without them only local is scored")
    parser.add_argument("--prompt", type=Path, help="prompt of the answers (default: prompt.json beside them)")
    parser.add_argument("--domain", default="", help="which head of a bundle with several")
    parser.add_argument("--encoder", default="", help="where the model folder's encoder lies now, if it was moved")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    documents = read_documents(args.data)
    recognizer = load_recognizer(args.model, args.domain, args.encoder)
    answers = None
    if args.answers is not None:
        answers = read_answers(args.answers, args.prompt, recognizer.prompt).spans([d.text for d in documents])
        if all(answer is None for answer in answers):
            raise DataError("holds no usable answer to any text of the data file", source=str(args.answers))
        absent = sum(answer is None for answer in answers)
        if absent:
            print(
                f"{absent} of {len(answers)} texts have no LLM answer (not recorded, or in the prompt)", file=sys.stderr
            )
    scores = compare(recognizer, documents, answers)
    if args.json:
        print(json.dumps(scores, ensure_ascii=False))
    else:
        _print(scores, recognizer.way, len(documents))
    return 0


def compare(
    recognizer: Recognizer, documents: Sequence[Document], answers: Sequence[Sequence[Span] | None] | None
) -> dict[str, Any]:
    """Scores by way (see `smallm.scoring.score`); only `local` if there are no answers.

    A text without an LLM answer counts as no spans for `llm`, and is recognised locally by `fused`.
    """
    texts = [document.text for document in documents]
    gold = [document.spans for document in documents]

    def scored(given: Sequence[Sequence[Span] | None], way: Way) -> dict[str, Any]:
        found = recognizer.recognize(texts, given, way)
        return score(gold, [[entity.span for entity in entities] for entities in found])

    scores = {}
    if answers is not None:
        scores["llm"] = score(gold, [answer or () for answer in answers])
    scores["local"] = scored([None] * len(texts), Way.LOCAL)
    if answers is not None:
        scores["fused"] = scored(answers, Way.FUSED)
    return scores


def _print(scores: dict[str, Any], way: Way, count: int) -> None:
    table = Table(
        title=f"strict span-and-type scores over {count} texts, %",
        box=SIMPLE_HEAD,
        title_justify="left",
        padding=(0, 1, 0, 0),
    )
    table.add_column("", no_wrap=True)
    for name in scores:
        for figure in ("P", "R", "F1"):
            table.add_column(f"{name}\n{figure}", justify="right", min_width=5)
    types = sorted({type_ for scored in scores.values() for type_ in scored["per_type"]})
    for type_ in types:
        table.add_row(type_, *_figures([scored["per_type"].get(type_, {}) for scored in scores.values()]))
    table.add_section()
    table.add_row("all", *_figures(list(scores.values())), style="bold")
    Console().print(table)
    print(f"chosen on dev, served where the LLM has answered: {way}")


def _figures(scored: list[dict[str, float]]) -> list[str]:
    return [f"{100 * one.get(name, 0.0):.1f}" for one in scored for name in ("precision", "recall", "f1")]
