"""`smallm serve`: a bundle behind gRPC."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from pathlib import Path
from typing import Any

from smallm.errors import DataError
from smallm.llm.command import add_settings
from smallm.llm.settings import Mode
from smallm_runtime import sources
from smallm_runtime.logs import configure
from smallm_runtime.server import serve

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("bundle", type=Path, nargs="?", help="bundle folder from export-onnx (default: the file's)")
    parser.add_argument("--config", type=Path, metavar="TOML", help="settings: see docs/operations.md")
    parser.add_argument("--print-config", action="store_true", help="print what is in force and by whom, then end")
    sources.add_flags(parser)
    parser.add_argument(
        "--answers", metavar="STORE", help="store of LLM answers: SQLite file, made if it is not there, or redis://"
    )
    add_settings(parser)
    parser.add_argument(
        "--llm-mode",
        choices=list(Mode),
        metavar="{" + ",".join(Mode) + "}",
        help="for requests that do not say (default: the configuration's, else wait)",
    )


def read_settings(args: argparse.Namespace) -> sources.Loaded:
    """Settings as flags, environment and files say. Raises DataError."""
    if bool(args.llm_url) != bool(args.llm_model):
        raise DataError("give --llm-url and --llm-model together")
    one = {"url": args.llm_url, "model": args.llm_model, "timeout_s": args.llm_timeout}
    llm: dict[str, Any] = {
        "endpoint": [one] if args.llm_url else None,
        "store": args.answers,
        "mode": args.llm_mode,
    }
    flags = sources.read_flags(args) | {(sources.LLM, name): value for name, value in llm.items() if value is not None}
    if args.bundle:
        flags["bundle",] = args.bundle
    return sources.load(args.config, os.environ, flags, args.llm_config)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    loaded = read_settings(args)
    if args.print_config:
        print(loaded.to_toml(), end="")
        return 0
    settings = loaded.settings
    configure(settings.log)
    for name in sources.unknown_variables(os.environ):
        _log.warning("%s is no setting and has no effect", name)
    host = settings.listen.rpartition(":")[0]
    asyncio.run(serve(settings, lambda port: print(f"serving {settings.bundle} on {host}:{port}", flush=True)))
    return 0
