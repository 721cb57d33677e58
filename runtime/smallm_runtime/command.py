"""`smallm serve`: a bundle behind gRPC."""

from __future__ import annotations

import argparse
import asyncio
import logging
from pathlib import Path

from smallm.llm.bridge import Mode
from smallm.llm.client import KEY_VARIABLE
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
        "--answers", type=Path, metavar="STORE", help="SQLite store of LLM answers; made if it is not there"
    )
    parser.add_argument("--llm-url", default="", help=f"OpenAI-compatible base URL; its key comes from {KEY_VARIABLE}")
    parser.add_argument("--llm-model", default="", help="model name to ask for")
    parser.add_argument("--llm-timeout", type=float, default=20.0, metavar="S", help="seconds one attempt may take")
    parser.add_argument(
        "--llm-mode",
        type=Mode,
        choices=list(Mode),
        default=Mode.WAIT,
        metavar="{" + ",".join(Mode) + "}",
        help="for requests that do not say (default wait)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for noisy in ("httpx", "httpcore", "openai"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    settings = Settings(
        bundle=args.bundle,
        listen=args.listen,
        threads=args.threads,
        device=args.device,
        answers=args.answers,
        llm_url=args.llm_url,
        llm_model=args.llm_model,
        llm_timeout_s=args.llm_timeout,
        llm_mode=args.llm_mode,
    )
    host = args.listen.rpartition(":")[0]
    asyncio.run(serve(settings, lambda port: print(f"serving {args.bundle} on {host}:{port}", flush=True)))
    return 0
