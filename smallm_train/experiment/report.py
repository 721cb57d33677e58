"""results.json, report.md and the learning curves of an experiment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from smallm import atomic
from smallm_train.experiment import curves
from smallm_train.experiment.cells import Cell, Result
from smallm_train.experiment.datasets import Dataset
from smallm_train.experiment.errors import Scenario
from smallm_train.experiment.plan import Plan
from smallm_train.experiment.summary import summarise


def write(plan: Plan, datasets: dict[str, Dataset], grid: Sequence[Cell], finished: Sequence[Result]) -> None:
    """Write the report over the finished cells into the plan's output folder, each file in one step."""
    results = summarise(plan, datasets, grid, finished)
    atomic.write_json(plan.out / "results.json", results)
    plotted = {name for name, found in results["datasets"].items() if curves.write(plan.out, name, found)}
    atomic.write_text(plan.out / "report.md", "\n".join(_report(results, plotted)) + "\n")


def _report(results: dict[str, Any], plotted: set[str]) -> Iterator[str]:
    yield f"# {results['name']}"
    yield ""
    yield (
        "Strict span-and-type micro F1, %, mean over seeds with 95 % bootstrap intervals "
        f"({results['resamples']} resamples of texts, paired between systems). Everything "
        "was chosen on dev, and by cross-fitting on train; dev figures stand beside the test's. "
        f"Encoder `{results['encoder']}`, seeds {', '.join(map(str, results['seeds']))}; "
        f"{results['finished']} of {results['cells']} trainings finished."
    )
    if len(results["code"]) > 1:
        yield ""
        versions = len(results["code"])
        yield f"**Made by {versions} versions of the training code; `--redo` repeats the older trainings.**"
    yield from _never_worse(results)
    for name, found in results["datasets"].items():
        yield from _dataset(name, found, name in plotted)


def _never_worse(results: dict[str, Any]) -> Iterator[str]:
    """Where a compared system lies below another with the whole interval: what must be empty."""
    below = [
        (name, one) for name, found in results["datasets"].items() for one in found["differences"] if one["high"] < 0
    ]
    compared = sum(len(found["differences"]) for found in results["datasets"].values())
    yield ""
    yield f"Of {compared} comparisons, {len(below)} lie below zero with their whole interval{':' if below else '.'}"
    yield ""
    for name, one in below:
        yield f"- {name}, {one['size']} texts: {one['first']} - {one['second']} = {_difference(one)}"


def _dataset(name: str, found: dict[str, Any], plotted: bool) -> Iterator[str]:
    yield ""
    yield f"## {name}"
    yield ""
    folds = f"{found['folds']}-fold over " if found["folds"] else ""
    yield f"{folds}{found['texts']} scored texts, {found['entities']} entities; {found['answered']} with an LLM answer."
    if plotted:
        yield ""
        yield f"![Learning curves of {name}]({curves.file_name(name)}.png)"
    sizes, by_curve = found["sizes"], {curve: _by_size(points) for curve, points in found["curves"].items()}
    header = ["training texts", *(_size_name(size, by_curve) for size in sizes)]
    yield from _section(
        "Test F1", header, ([curve, *(_f1(points.get(size)) for size in sizes)] for curve, points in by_curve.items())
    )
    yield from _section(
        "Dev F1", header, ([curve, *(_dev(points.get(size)) for size in sizes)] for curve, points in by_curve.items())
    )
    pairs = dict.fromkeys((one["first"], one["second"]) for one in found["differences"])
    by_pair = {
        pair: _by_size([one for one in found["differences"] if (one["first"], one["second"]) == pair]) for pair in pairs
    }
    rows = (
        [f"{first} - {second}", *(_difference(points.get(size)) for size in sizes)]
        for (first, second), points in by_pair.items()
    )
    yield from _section("Differences on test, points of F1, with interval and p", header, rows)
    yield from _section("Way served, as chosen on dev (number of trainings)", header, _ways(by_curve, sizes))
    yield from _errors(found)
    yield from _cost(by_curve)


def _errors(found: dict[str, Any]) -> Iterator[str]:
    kinds = [str(kind) for kind in Scenario]
    rows = (
        [curve, *(f"{one['shares'][kind]:.1f}" for kind in kinds), str(one["predictions"]), f"{one['missed']:.1f}"]
        for curve, one in found["scenarios"].items()
    )
    header = ["largest size", *kinds, "predictions", "gold missed"]
    yield from _section("Errors: share of predictions over all seeds, %", header, rows)
    ways = ("strict", "exact", "partial", "type")
    rows = (
        [curve, *(f"{100 * one[way]:.1f}" for way in ways), f"{one['missed']:.0f}", f"{one['spurious']:.0f}"]
        for curve, one in found["matching"].items()
    )
    header = ["largest size", "strict F1", "boundary F1", "partial F1", "type F1", "missed", "spurious"]
    yield from _section("Under looser matching (nervaluate)", header, rows)
    rows = (
        [
            f"{one['before']} to {one['after']}",
            *(f"{one[kind]:.0f} ({100 * one[kind] / max(1, one['tokens']):.2f} %)" for kind in ("rescued", "harmed")),
            f"{one['rescued'] - one['harmed']:+.0f}",
            str(one["tokens"]),
        ]
        for one in found["tokens"]
    )
    yield from _section(
        "Tokens rescued and harmed, mean over seeds", ["largest size", "rescued", "harmed", "net", "tokens"], rows
    )


def _cost(by_curve: dict[str, dict[Any, Any]]) -> Iterator[str]:
    rows = (
        [curve, f"{last['parameters']:,}", f"{last['train_seconds']:.1f}", f"{last['train_texts']:.0f}"]
        for curve, points in by_curve.items()
        if points and (last := list(points.values())[-1])["parameters"]
    )
    header = ["system", "trained parameters", "training seconds", "training texts"]
    yield from _section("Cost at the largest size (one thread, encoder features cached)", header, rows)


def _ways(by_curve: dict[str, dict[Any, Any]], sizes: list[Any]) -> Iterator[list[str]]:
    for curve, points in by_curve.items():
        if curve.endswith(".served"):
            cells = (points.get(size, {}).get("ways", {}) for size in sizes)
            yield [curve, *(", ".join(f"{way} {count}" for way, count in sorted(ways.items())) for ways in cells)]


def _section(title: str, header: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    """A Markdown table; nothing at all if it has no rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if lines:
        yield from ("", f"### {title}", "", f"| {' | '.join(header)} |", "|---" * len(header) + "|", *lines)


def _by_size(points: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    return {point["size"]: point for point in points}


def _size_name(size: Any, by_curve: dict[str, dict[Any, Any]]) -> str:
    texts = {points[size]["train_texts"] for points in by_curve.values() if size in points}
    return f"all ({max(texts):.0f})" if size == "all" and texts else str(size)


def _f1(point: dict[str, Any] | None) -> str:
    if point is None:
        return ""
    return f"{100 * point['test']['value']:.1f} [{100 * point['test']['low']:.1f}, {100 * point['test']['high']:.1f}]"


def _dev(point: dict[str, Any] | None) -> str:
    return "" if point is None else f"{100 * point['dev']:.1f}"


def _difference(one: dict[str, Any] | None) -> str:
    if one is None:
        return ""
    p = "p < 0.001" if one["p"] < 0.001 else f"p = {one['p']:.3f}"
    return f"{100 * one['value']:+.1f} [{100 * one['low']:+.1f}, {100 * one['high']:+.1f}] {p}"
