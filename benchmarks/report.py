"""Figures as Markdown tables and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def markdown(found: dict[str, Any]) -> str:
    """One table a section: a row a variant where it has several, else its figures."""
    parts = []
    for name, figures in found.items():
        rows = {row: values for row, values in figures.items() if isinstance(values, dict)}
        single = {column: value for column, value in figures.items() if not isinstance(value, dict)}
        parts.append(f"### {name}\n")
        if rows:
            columns = list(dict.fromkeys(column for values in rows.values() for column in values))
            lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
            for row, values in rows.items():
                lines.append(f"| {row} | " + " | ".join(_shown(values.get(column, "")) for column in columns) + " |")
            parts.append("\n".join(lines) + "\n")
        if single:
            parts.append("\n".join(f"- {column}: {_shown(value)}" for column, value in single.items()) + "\n")
    return "\n".join(parts)


def plot(found: dict[str, Any], file: Path) -> None:
    """Latency of the open loop against the offered rate, logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = list(found["open"].values())
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for share in ("p50_ms", "p95_ms", "p99_ms"):
        axes.plot([row["offered_per_s"] for row in rows], [row[share] for row in rows], marker="o", label=share[:3])
    axes.set(xlabel="texts offered a second (Poisson)", ylabel="ms of answered texts", yscale="log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    axes.set_title(f"{found['about']['bundle']}, {found['about']['variant']}, {found['about']['cpus']} CPUs")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
