"""`smallm llm`: the store of LLM answers."""

from __future__ import annotations

import argparse
from pathlib import Path

from smallm.errors import ArtifactError, LLMError
from smallm.llm.recordings import read_answers
from smallm.llm.request import RECORDED, ask
from smallm.llm.store import AnswerStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True)
    load = actions.add_parser("import", help="recorded answers (.jsonl) into a store")
    load.add_argument("answers", type=Path, help="JSON lines with 'text' and 'response'")
    load.add_argument("--store", type=Path, required=True, help="SQLite file; made if it is not there")
    load.add_argument("--prompt", type=Path, help="the prompt they answer (default: prompt.json beside them)")
    stats = actions.add_parser("stats", help="what a store holds")
    stats.add_argument("store", type=Path)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    if args.action == "import":
        return _import(args)
    if not args.store.is_file():
        raise ArtifactError(f"{args.store}: no such store")
    found = AnswerStore(args.store).stats()
    print(f"{found.replies} replies, {found.parsed} parsed")
    for domain, count in found.by_domain.items():
        print(f"  {domain or '(no domain)'}: {count}")
    return 0


def _import(args: argparse.Namespace) -> int:
    recorded = read_answers(args.answers, args.prompt)
    store = AnswerStore(args.store)
    requests = [(ask(RECORDED, recorded.prompt, text), text) for text in recorded.replies]
    new = store.add_replies(((request, recorded.replies[text]) for request, text in requests), recorded.prompt.domain)
    unparsable = 0
    for request, text in requests:
        try:
            store.spans(request, recorded.prompt, text)
        except LLMError:
            unparsable += 1
    store.close()
    print(f"{len(requests)} answers read, {new} new, {unparsable} without a usable JSON array; in {args.store}")
    return 0
