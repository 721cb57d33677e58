"""`smallm recognize`: texts to a server; JSON lines, or a coloured view on a terminal."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from smallm.client import Client, Connection, Result
from smallm.client.connection import TOKEN_VARIABLE, token_from
from smallm.errors import DataError, ServerError
from smallm.formats import read_documents

COLOURS = (36, 32, 35, 33, 34, 31, 96, 92)  # of ANSI; a library for this would double the size of a plain install
BOLD, DIM, UNDERLINE = 1, 2, 4
_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}
MODES = ("off", "cached_only", "wait", "background", "when_uncertain")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("text", nargs="?", help="a text; without it, --file or standard input, one text a line")
    parser.add_argument("--server", default="127.0.0.1:50051", metavar="HOST:PORT")
    parser.add_argument("--tls", action="store_true", help="encrypted; implied by --ca and --cert")
    parser.add_argument("--ca", type=Path, metavar="PEM", help="authorities to trust (default: gRPC's own)")
    parser.add_argument("--cert", type=Path, metavar="PEM", help="this client's certificate, with --key")
    parser.add_argument("--key", type=Path, metavar="PEM", help="its key")
    parser.add_argument("--server-name", default="", metavar="NAME", help="on its certificate, if not the host")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help=f"bearer token (default: ${TOKEN_VARIABLE})")
    parser.add_argument("--bundle-version", default="", metavar="NAME", help="which bundle of a server with several")
    parser.add_argument("--file", type=Path, help=".txt with one text a line, or .jsonl / .conll documents")
    parser.add_argument("--domain", default="", help="which domain of a server with several")
    parser.add_argument("--llm-mode", choices=MODES, default="", help="how far to go for the LLM's answer")
    parser.add_argument("--min-score", type=float, default=0.0, help="leave out less certain entities (0 to 1)")
    parser.add_argument(
        "--format",
        choices=("auto", "json", "view"),
        default="auto",
        help="auto: coloured view on a terminal, else JSON lines",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status is 1 if any text failed."""
    as_json = args.format == "json" or (args.format == "auto" and not sys.stdout.isatty())
    texts = dict(_texts(args))
    failed = 0
    with Client(_connection(args)) as client:
        colours = {} if as_json else _colours(client, args.domain)
        results = client.recognize_stream(
            texts.items(), domain=args.domain, llm_mode=args.llm_mode, min_score=args.min_score
        )
        for id_, result in _in_order(results, list(texts)):
            if isinstance(result, ServerError):
                failed += 1
                print(
                    json.dumps({"id": id_, "error": str(result)}, ensure_ascii=False) if as_json else f"{id_}: {result}"
                )
            elif as_json:
                line = {"id": id_, "text": texts[id_], **asdict(result)}
                print(json.dumps(line, ensure_ascii=False, default=datetime.isoformat), flush=True)
            else:
                _show(texts[id_], result, colours)
    return 1 if failed else 0


def _connection(args: argparse.Namespace) -> Connection:
    return Connection(
        args.server,
        tls=args.tls,
        ca=args.ca,
        certificate=args.cert,
        key=args.key,
        server_name=args.server_name,
        token=token_from(args.token_file),
        version=args.bundle_version,
    )


def _in_order(
    results: Iterator[tuple[str, Result | ServerError]], ids: list[str]
) -> Iterator[tuple[str, Result | ServerError]]:
    """Hold back what came before its turn."""
    early: dict[str, Result | ServerError] = {}
    turn = 0
    for id_, result in results:
        early[id_] = result
        while turn < len(ids) and ids[turn] in early:
            yield ids[turn], early.pop(ids[turn])
            turn += 1


def _texts(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    if args.text is not None and args.file is not None:
        raise DataError("give a text or --file, not both")
    if args.text is not None:
        yield "1", args.text
    elif args.file is not None and args.file.suffix != ".txt":
        for number, document in enumerate(read_documents(args.file), start=1):
            yield f"{number}:{document.id}", document.text
    else:
        yield from _lines(args.file)


def _lines(file: Path | None) -> Iterator[tuple[str, str]]:
    try:
        content = file.read_text(encoding="utf-8") if file else sys.stdin.read()
    except FileNotFoundError:
        raise DataError("no such file", source=str(file)) from None
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start}", source=str(file or "standard input")) from None
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield str(number), line.rstrip("\r")


def _colours(client: Client, domain: str) -> dict[str, int]:
    domains = client.domains()
    types = domains.get(domain) or next(iter(domains.values()), [])
    return {type_: COLOURS[index % len(COLOURS)] for index, type_ in enumerate(types)}


def _show(text: str, result: Result, colours: dict[str, int]) -> None:
    shown, position = "", 0
    for entity in result.entities:
        marked = _styled(entity.text, BOLD, UNDERLINE, colours.get(entity.type, 37))
        shown += _styled(text[position : entity.start]) + marked
        position = entity.end
    print(shown + _styled(text[position:]))
    for entity in result.entities:
        where = _styled(f"[{entity.start}, {entity.end})  {entity.score:.2f}  {entity.source}", DIM)
        type_ = _styled(f"{entity.type:<8}", colours.get(entity.type, 37))
        print(f"  {type_} {_styled(entity.text)}  {where}")
    llm = result.llm + (f" ({result.llm_reason})" if result.llm_reason else "")
    print(_styled(f"  LLM {llm}, {result.timings.get('total_us', 0) / 1000:.1f} ms", DIM))


def _styled(text: str, *codes: int) -> str:
    """`text` for a terminal, harmless whatever it holds, and coloured where that is wanted (no-color.org)."""
    text = text.translate(_CONTROLS)
    wanted = not os.environ.get("NO_COLOR") and (os.environ.get("FORCE_COLOR") or sys.stdout.isatty())
    return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m" if wanted and codes else text
