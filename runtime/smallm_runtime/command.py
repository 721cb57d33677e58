"""`smallm serve`: a bundle behind gRPC."""

from __future__ import annotations

import argparse
import asyncio
import logging
from pathlib import Path

from smallm.llm.command import add_settings, read_settings
from smallm.llm.settings import Mode
from smallm_runtime.server import Settings, serve
from smallm_runtime.sessions import PROVIDERS, available_cpus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("bundle", type=Path, help="bundle folder from export-onnx")
    parser.add_argument("--listen", default="127.0.0.1:50051", metavar="HOST:PORT", help="port 0 takes a free one")
    parser.add_argument(
        "--threads", type=int, help=f"threads of the encoder (default: usable CPUs, here {available_cpus()})"
    )
    parser.add_argument("--device", choices=list(PROVIDERS), default="cpu")
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
    parser.add_argument("--metrics", default="", metavar="HOST:PORT", help="serve metrics for Prometheus there")


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for noisy in ("httpx", "httpx2", "httpcore", "httpcore2", "openai"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    settings = Settings(
        bundle=args.bundle,
        listen=args.listen,
        threads=args.threads,
        device=args.device,
        metrics=args.metrics,
        bridge=read_settings(args, store=args.answers, mode=args.llm_mode),
    )
    host = args.listen.rpartition(":")[0]
    asyncio.run(serve(settings, lambda port: print(f"serving {args.bundle} on {host}:{port}", flush=True)))
    return 0
