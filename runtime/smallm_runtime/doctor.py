"""`smallm doctor`: what is wrong with this machine and these settings, and how to mend it."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict

from smallm.errors import SmallmError
from smallm_runtime import command, sources
from smallm_runtime.examinations import (
    Finding,
    Level,
    bundles,
    certificates,
    clock,
    collector,
    llm,
    machine,
    network,
    store,
    tokens,
)
from smallm_runtime.settings import Settings

EXAMINATIONS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    machine, clock, bundles, certificates, tokens, network, store, llm, collector,
)  # fmt: skip
_MARKS = {Level.OK: "ok  ", Level.WARNING: "WARN", Level.FAILURE: "FAIL"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: those of `smallm serve`."""
    command.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one object a finding, for programs")


def run(args: argparse.Namespace) -> int:
    """Look at everything; 1 if something would keep the server from serving, else 0."""
    worst = 0
    for finding in findings(args):
        worst |= finding.level is Level.FAILURE
        if args.json:
            print(json.dumps(asdict(finding), ensure_ascii=False))
            continue
        mend = f"\n       -> {finding.mend}" if finding.mend else ""
        print(f"{_MARKS[finding.level]} {finding.subject}: {finding.message}{mend}", flush=True)
    return worst


def findings(args: argparse.Namespace) -> Iterator[Finding]:
    """Everything there is to say, one after the other; no examination keeps another from its turn."""
    try:
        settings = command.read_settings(args).settings
    except SmallmError as error:
        yield Finding(Level.FAILURE, "settings", str(error), "mend the file, variable or flag that it names")
        return
    for name in sources.unknown_variables(os.environ):
        yield Finding(Level.WARNING, "settings", f"{name} is no setting", "a typing error? docs/operations.md has them")
    yield Finding(Level.OK, "settings", f"read; bundle {settings.bundle}, listening on {settings.listen}")
    for examine in EXAMINATIONS:
        yield from _guarded(examine, settings)


def _guarded(examine: Callable[[Settings], Iterator[Finding]], settings: Settings) -> Iterator[Finding]:
    subject = examine.__name__
    try:
        yield from examine(settings)
    except SmallmError as error:
        yield Finding(Level.FAILURE, subject, str(error))
    except Exception as error:
        yield Finding(Level.FAILURE, subject, f"could not be looked at ({type(error).__name__}: {error})")
