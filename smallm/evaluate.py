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
from smallm.fusion import Entity, Way
from smallm.llm.recordings import read_answers
from smallm.scoring import calibration_error, score


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
    """Scores by way (see `smallm.scoring.score`), `calibration`, `asking`; only what is local if there are no answers.

    A text without an LLM answer counts as no spans for `llm`, and is recognised locally by `fused`.
    `calibration`: the expected calibration error of the entities' scores, by way. `asking`: micro F1
    by the share of texts for which the LLM's answer is used, those first of which the local model is least sure, and
    the `threshold` of a server that asks so often.
    """
    texts = [document.text for document in documents]
    gold = [document.spans for document in documents]
    found = {"local": recognizer.recognize(texts, [None] * len(texts), Way.LOCAL)}
    if answers is not None:
        found["fused"] = recognizer.recognize(texts, answers, Way.FUSED)
    spans = {way: [[entity.span for entity in entities] for entities in part] for way, part in found.items()}
    result: dict[str, Any] = {"llm": score(gold, [answer or () for answer in answers])} if answers is not None else {}
    result |= {way: score(gold, guessed) for way, guessed in spans.items()}
    result["calibration"] = {way: _calibration(gold, part) for way, part in found.items()}
    if answers is not None:
        served = spans["fused"] if recognizer.way is Way.FUSED else spans["local"]
        if recognizer.way is Way.LLM:
            served = [list(a) if a is not None else own for a, own in zip(answers, spans["local"], strict=True)]
        result["asking"] = _asking(gold, spans["local"], served, recognizer.confidences(texts))
    return result


def _calibration(gold: Sequence[Sequence[Span]], found: Sequence[Sequence[Entity]]) -> float:
    pairs = [(e.score, e.span in spans) for spans, part in zip(gold, found, strict=True) for e in part]
    return calibration_error(pairs)


def _asking(
    gold: Sequence[Sequence[Span]],
    local: Sequence[Sequence[Span]],
    asked: Sequence[Sequence[Span]],
    confidences: Sequence[float],
) -> list[dict[str, float]]:
    order = sorted(range(len(gold)), key=lambda index: confidences[index])
    curve = []
    for tenth in range(11):
        asked_for = round(len(order) * tenth / 10)
        chosen = set(order[:asked_for])
        guessed = [asked[i] if i in chosen else local[i] for i in range(len(gold))]
        threshold = confidences[order[asked_for]] if asked_for < len(order) else 1.0
        curve.append({"share": tenth / 10, "threshold": threshold, "f1": score(gold, guessed)["f1"]})
    return curve


def _print(result: dict[str, Any], way: Way, count: int) -> None:
    scores = {name: result[name] for name in ("llm", "local", "fused") if name in result}
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
    print(f"chosen in training, served where the LLM has answered: {way}")
    errors = ", ".join(f"{name} {100 * error:.1f}" for name, error in result["calibration"].items())
    print(f"calibration error of the entities' scores, %: {errors}")
    if "asking" in result:
        points = [
            f"{100 * p['share']:.0f} %: {100 * p['f1']:.1f} ({p['threshold']:.2f})" for p in result["asking"][::2]
        ]
        print("F1 when the LLM is asked only where the local model is least sure, by share asked (and the threshold")
        print(f"of when_uncertain that does so): {'  '.join(points)}")


def _figures(scored: list[dict[str, float]]) -> list[str]:
    return [f"{100 * one.get(name, 0.0):.1f}" for one in scored for name in ("precision", "recall", "f1")]
