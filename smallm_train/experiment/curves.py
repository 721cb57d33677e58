"""Learning curves: test F1 against the number of training texts, with bootstrap bands, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from smallm import atomic

matplotlib.rcParams["svg.hashsalt"] = "smallm"  # the same figures give the same file

# Okabe and Ito's palette: told apart with any colour vision.
STYLES: dict[str, tuple[str, str, str]] = {
    "llm": ("#000000", "--", ""),
    "local": ("#0072B2", "-", "s"),
    "bilstm_crf": ("#999999", "-", "v"),
    "finetune": ("#E69F00", "-", "^"),
    "paper.fused": ("#CC79A7", "-", "D"),
    "ours.fused": ("#D55E00", ":", ""),
    "ours.served": ("#D55E00", "-", "o"),
}


def file_name(dataset: str) -> str:
    """Without the suffix."""
    return f"curves-{dataset}"


def write(out: Path, dataset: str, found: dict[str, Any]) -> bool:
    """Draw a dataset's curves; False if there are no two sizes to draw a line between."""
    curves = {name: found["curves"][name] for name in STYLES if len(found["curves"].get(name, [])) > 1}
    if not curves:
        return False
    figure = _draw(dataset, found, curves)
    for suffix in ("png", "svg"):
        metadata = {"Date": None} if suffix == "svg" else {"Software": None}
        with atomic.new_file(out / f"{file_name(dataset)}.{suffix}") as temporary:
            figure.savefig(temporary, format=suffix, dpi=150, metadata=metadata)
    return True


def _draw(dataset: str, found: dict[str, Any], curves: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    places = {
        point["size"]: point["train_texts"] for name, points in curves.items() if name != "llm" for point in points
    }
    for name, points in curves.items():
        colour, line, marker = STYLES[name]
        x = [places.get(point["size"], point["train_texts"]) for point in points]
        y, low, high = ([100 * point["test"][part] for point in points] for part in ("value", "low", "high"))
        width, order = (2.4 if name == "ours.served" else 1.5), (4 if name == "llm" else 3)  # often on one line
        axes.plot(
            x, y, linestyle=line, marker=marker, color=colour, linewidth=width, markersize=5, label=name, zorder=order
        )
        if name != "ours.fused":  # its band would lie on that of what is served
            axes.fill_between(x, low, high, color=colour, alpha=0.10, linewidth=0)
    ticks = sorted(set(places.values()))
    axes.set_xscale("symlog", linthresh=10, linscale=0.5)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:.0f}" for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training texts (log scale from 10)")
    axes.set_ylabel("strict micro F1 on test, %")
    folds = f", {found['folds']}-fold" if found["folds"] else ""
    axes.set_title(f"{dataset}: {found['texts']} test texts{folds}; bands are 95 % bootstrap intervals", fontsize=10)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure
