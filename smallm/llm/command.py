"""`smallm llm`: the store of LLM answers, and filling it."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from smallm.errors import ArtifactError, DataError
from smallm.formats import read_texts
from smallm.llm import exchange, settings
from smallm.llm.annotate import PATIENCE_S, Outcome, Plan, annotate, plan
from smallm.llm.bridge import Bridge
from smallm.llm.limits import MICRO, Budget
from smallm.llm.prompt import Prompt
from smallm.llm.reading import reader
from smallm.llm.settings import BridgeSettings, Limits
from smallm.llm.store import AnswerStore, Record, open_store

_DAY_S = 86_400
_STORE = "SQLite file or redis://host:port/db"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True)
    load = actions.add_parser("import", help="recorded or exported answers (.jsonl) into a store")
    load.add_argument("answers", type=Path, help="JSON lines with 'text' and 'response', or what export wrote")
    load.add_argument("--store", required=True, help=f"{_STORE}; a file is made if it is not there")
    load.add_argument("--prompt", type=Path, help="the prompt they answer (default: prompt.json beside them)")
    save = actions.add_parser("export", help="usable answers of a store to JSON lines, for another site")
    save.add_argument("store", help=_STORE)
    save.add_argument("out", type=Path)
    save.add_argument("--domain", help="only this one's")
    stats = actions.add_parser("stats", help="what a store holds and what was spent today")
    stats.add_argument("store", help=_STORE)
    again = actions.add_parser("reparse", help="read every raw reply anew with this version's parser; asks nothing")
    again.add_argument("store", help=_STORE)
    _add_purge(actions.add_parser("purge", help="forget answers that meet every condition given"))
    _add_annotate(actions.add_parser("annotate", help="ask the LLM about every text of a file, ahead of time"))


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "import": _import,
        "export": _export,
        "stats": _stats,
        "reparse": _reparse,
        "purge": _purge,
        "annotate": _annotate,
    }
    return actions[args.action](args)


def _add_purge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", help=_STORE)
    parser.add_argument("--expired", action="store_true", help="those past their life")
    parser.add_argument("--unusable", action="store_true", help="replies that are no answer")
    parser.add_argument("--domain", help="those of a domain")
    parser.add_argument("--model", help="those of a model")
    parser.add_argument("--older-than", type=float, metavar="DAYS", help="those known to be older")
    parser.add_argument("--all", action="store_true", help="everything")


def _add_annotate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help=".txt with one text a line, or .jsonl / .conll documents")
    parser.add_argument("--prompt", type=Path, help="what the LLM is told (default: prompt.json beside the file)")
    add_settings(parser)
    parser.add_argument("--store", help=f"{_STORE} (default: the configuration's)")
    parser.add_argument("--estimate", action="store_true", help="say what it would cost and ask nothing")
    parser.add_argument(
        "--batch", type=Path, metavar="STATE", help="OpenAI's Batch API; STATE remembers the batch until it is done"
    )
    parser.add_argument("--poll", type=float, default=30.0, metavar="S", help="seconds between looks at a batch")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The options by which a command is told of the LLM; `smallm serve` has them too."""
    parser.add_argument("--llm-config", type=Path, metavar="TOML", help="all settings: see docs/bridge.md")
    parser.add_argument(
        "--llm-url", default="", help=f"OpenAI-compatible base URL; its key comes from {settings.KEY_VARIABLE}"
    )
    parser.add_argument("--llm-model", default="", help="model name to ask for")
    parser.add_argument("--llm-timeout", type=float, default=20.0, metavar="S", help="seconds one attempt may take")


def read_settings(args: argparse.Namespace, **flags: object) -> BridgeSettings:
    """Settings as the options say. Raises DataError."""
    if bool(args.llm_url) != bool(args.llm_model):
        raise DataError("give --llm-url and --llm-model together")
    one = [{"url": args.llm_url, "model": args.llm_model, "timeout_s": args.llm_timeout}] if args.llm_url else None
    return settings.load(args.llm_config, endpoint=one, **flags)


def _import(args: argparse.Namespace) -> int:
    entries = exchange.read(args.answers, args.prompt)
    with _opened(args.store, new=True) as store:
        kept = store.put(entries)
    unusable = sum(derived is None for _, derived in entries)
    print(f"{len(entries)} answers read, {kept} new, {unusable} without a usable JSON array; in {args.store}")
    return 0


def _export(args: argparse.Namespace) -> int:
    now = time.time()
    with _opened(args.store) as store:
        records = [
            record
            for record in store.scan()
            if record.outcome is None and not record.expired(now) and args.domain in (None, record.domain)
        ]
    print(f"{exchange.write(args.out, records)} answers written to {args.out}")
    return 0


def _stats(args: argparse.Namespace) -> int:
    with _opened(args.store) as store:
        found = store.stats()
        calls, tokens, money = Budget(Limits(), store).spent_today()
    print(f"{found.replies} replies, {found.derived} parsed, {found.bytes / 1e6:.1f} MB")
    for domain, count in found.by_domain.items():
        print(f"  {domain or '(no domain)'}: {count}")
    for outcome, count in found.by_outcome.items():
        print(f"  no answer, {outcome}: {count}")
    print(f"today: {calls} calls, {tokens} tokens, {money:.4f} spent")
    return 0


def _reparse(args: argparse.Namespace) -> int:
    """Only what this parser has not read is read. Replies that were no answer may be one now."""
    read = gained = unusable = 0
    with _opened(args.store) as store:
        for record in store.scan():
            if record.outcome is None and store.tags([record.key], reader(record.types)) is not None:
                continue
            was_usable = record.outcome is None
            record, derived = exchange.with_tags(record if was_usable else replace(record, expires=0.0))
            if derived is None:
                unusable += 1
                continue
            store.derive(record.key, derived)
            read += 1
            gained += not was_usable
    print(f"{read} replies read anew, {gained} of them for the first time; {unusable} are still no answer")
    return 0


def _purge(args: argparse.Namespace) -> int:
    now = time.time()
    conditions: list[Callable[[Record], bool]] = []
    if args.expired:
        conditions.append(lambda record: record.expired(now))
    if args.unusable:
        conditions.append(lambda record: record.outcome is not None)
    if args.domain is not None:
        conditions.append(lambda record: record.domain == args.domain)
    if args.model is not None:
        conditions.append(lambda record: record.model == args.model)
    if args.older_than is not None:
        conditions.append(lambda record: 0 < record.created < now - args.older_than * _DAY_S)
    if bool(conditions) == args.all:
        raise DataError("say which answers: conditions, or --all")
    with _opened(args.store) as store:
        keys = [record.key for record in store.scan() if all(condition(record) for condition in conditions)]
        print(f"{store.purge(keys)} answers forgotten")
    return 0


def _annotate(args: argparse.Namespace) -> int:
    texts = read_texts(args.file)
    prompt = Prompt.load(args.prompt or args.file.with_name("prompt.json"))
    told = read_settings(args, store=args.store)
    if not told.endpoint:
        raise DataError("no endpoint to ask; give --llm-url and --llm-model, or --llm-config with an [[endpoint]]")
    if not told.store:
        raise DataError("no store to fill; give --store, or --llm-config with a store")
    told = told.model_copy(update={"wait_s": PATIENCE_S})
    return asyncio.run(_fill(args, Bridge(told), prompt, texts))


async def _fill(args: argparse.Namespace, bridge: Bridge, prompt: Prompt, texts: list[str]) -> int:
    try:
        planned = await plan(bridge, prompt, texts)
        _tell(planned)
        if args.estimate or not (planned.questions or (args.batch and args.batch.is_file())):
            return 0
        if args.batch:
            return await _batch(args, bridge, planned)
        outcome = await _with_progress(bridge, prompt, texts)
    finally:
        await bridge.close()
    for name, count in sorted(outcome.counts.items()):
        print(f"  {name}: {count}")
    _tell_spent(bridge)
    if outcome.left:
        why = f" (ended early: {outcome.ended})" if outcome.ended else ""
        print(f"{outcome.left} texts left{why}; run it again to go on")
    return 1 if outcome.left else 0


async def _with_progress(bridge: Bridge, prompt: Prompt, texts: list[str]) -> Outcome:
    columns = (
        TextColumn("asking"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(set(texts)))

        def advance() -> None:
            progress.update(task, advance=1, description=f"{_spent(bridge)[2]:.4f} spent")

        return await annotate(bridge, prompt, texts, advance)


async def _batch(args: argparse.Namespace, bridge: Bridge, planned: Plan) -> int:
    from smallm.llm import batch  # imports the openai client, which takes a while

    if not args.batch.is_file():
        print(f"{await batch.send(bridge, planned.questions, args.batch)} questions sent as a batch")
    outcomes = await batch.collect(
        bridge, planned.questions, args.batch, args.poll, lambda status: print(f"  {status}")
    )
    for name, count in sorted(outcomes.items()):
        print(f"  {name}: {count}")
    _tell_spent(bridge)
    return 0


def _tell(planned: Plan) -> None:
    usage = planned.usage
    print(
        f"{len(planned.questions)} texts to ask about, {planned.answered} answered already; estimated "
        f"{usage.prompt} + {usage.completion} tokens, {planned.micros / MICRO:.4f} at the configured prices"
    )


def _tell_spent(bridge: Bridge) -> None:
    prompt, completion, money = _spent(bridge)
    print(f"actually {prompt:.0f} + {completion:.0f} tokens, {money:.4f}")


def _spent(bridge: Bridge) -> tuple[float, float, float]:
    names = [str(line.index) for line in bridge.asker.lines]

    def total(name: str, **labels: str) -> float:
        return sum(bridge.metrics.value(name, endpoint=endpoint, **labels) for endpoint in names)

    prompt, completion = (total("tokens_total", direction=which) for which in ("prompt", "completion"))
    return prompt, completion, total("money_total")


@contextmanager
def _opened(address: str, *, new: bool = False) -> Iterator[AnswerStore]:
    if not new and "://" not in address and not Path(address).is_file():
        raise ArtifactError(f"{address}: no such store")
    store = open_store(address)
    try:
        yield store
    finally:
        store.close()
