"""Train, export and evaluate annotated sets over several seeds; print a Markdown table of test F1.

    python benchmarks/accuracy.py DATA_ROOT ANSWERS_ROOT [--sets NAME ...] [--seeds 0 1 2] [--work DIR]

DATA_ROOT/NAME holds train, dev and test.jsonl; ANSWERS_ROOT/NAME responses.jsonl and prompt.json. Every
row is made by the commands a user would type. Models already in the work folder are used again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from pathlib import Path
from statistics import mean
from typing import Any

from smallm.cli import main as smallm


def main() -> None:
    """Run everything that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--sets", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("work/accuracy"))
    parser.add_argument("train_options", nargs="*", help="further options of `smallm train`, after --")
    args = parser.parse_args()
    names = args.sets or sorted(folder.name for folder in args.data.iterdir() if folder.is_dir())
    print("| set | seed | LLM | local | fused | fused, int8 bundle |\n|---|---|---|---|---|---|", flush=True)
    for name in names:
        answers = args.answers / name / "responses.jsonl"
        rows = [
            _run(args.data / name, answers, args.work / f"{name}-{seed}", seed, args.train_options)
            for seed in args.seeds
        ]
        for seed, row in zip(args.seeds, rows, strict=True):
            _print(name, str(seed), row)
        _print(name, "mean", [mean(column) for column in zip(*rows, strict=True)])


def _run(data: Path, answers: Path, work: Path, seed: int, options: list[str]) -> list[float]:
    model, bundle, test = work / "model", work / "bundle", data / "test.jsonl"
    if not (model / "model.json").is_file():
        _quietly("train", data, "--answers", answers, "--out", model, "--seed", seed, *options)
    if not (bundle / "manifest.json").is_file():
        _quietly("export-onnx", model, "--out", bundle)
    exact, int8 = (
        json.loads(_quietly("evaluate", artefact, test, "--answers", answers, "--json")) for artefact in (model, bundle)
    )
    return [100 * figure for figure in (*(exact[way]["f1"] for way in ("llm", "local", "fused")), int8["fused"]["f1"])]


def _quietly(*arguments: Any) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = smallm([str(argument) for argument in arguments])
    if status:
        raise SystemExit(status)
    return output.getvalue()


def _print(name: str, seed: str, figures: list[float]) -> None:
    print(f"| {name} | {seed} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |", flush=True)


if __name__ == "__main__":
    main()
