"""What export says of what it measured."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from smallm.bundle import Domain
from smallm_export.gate import Figures


def print_gates(console: Console, variant: str, figures: dict[str, Figures]) -> None:
    """A variant against fp32, a row a domain."""
    table = Table(title=f"{variant} against fp32", box=SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for name in (
        "domain",
        "texts",
        "tags differ, %\nserved",
        "\nlocal",
        "F1\nserved",
        "\nlocal",
        "tags changed\nby company",
    ):
        table.add_column(name, justify="left" if name == "domain" else "right")
    for domain, one in figures.items():
        rates = [f"{100 * one.flips[name]:.2f}" for name in ("served", "local")]
        scores = [
            f"{100 * one.f1[name][0]:.1f} > {100 * one.f1[name][1]:.1f}" if one.f1 else "no dev file"
            for name in ("served", "local")
        ]
        table.add_row(domain, str(one.texts), *rates, *scores, str(one.batch_flips))
    console.print(table)


def print_domain(name: str, domain: Domain) -> None:
    """A domain's fp32 graphs against PyTorch."""
    parity = domain.parity
    print(
        f"{name}: on {parity['texts']} reference texts, {100 * parity['tag_agreement']:.2f} % of tags as in PyTorch; "
        f"fp32 graphs within {parity['max_difference']:.4f}"
    )
