"""`smallm tune`: what is fastest on this machine, with one's own texts, kept for the server."""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from smallm import bundle
from smallm.errors import DataError
from smallm.formats import read_texts
from smallm_runtime import profile as profiles
from smallm_runtime.engine import Engine, Item, Work
from smallm_runtime.profile import Profile
from smallm_runtime.sessions import available_cpus

ROUNDS = 5  # of measuring all candidates in turn
WORTH = 1.03  # a candidate replaces a simpler one if it is so much better
TEXTS = 400
GOALS = ("both", "latency", "throughput")


@dataclass(frozen=True)
class Measured:
    """Seconds of one text alone (p50), and texts a second at saturation; medians of the rounds."""

    profile: Profile
    alone_s: float
    per_s: float

    def score(self, goal: str) -> float:
        """The higher the better."""
        scores = {"latency": 1 / self.alone_s, "throughput": self.per_s, "both": math.sqrt(self.per_s / self.alone_s)}
        return scores[goal]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("bundle", type=Path, help="bundle folder from export-onnx")
    parser.add_argument("--texts", type=Path, required=True, metavar="FILE", help="your texts: .txt, .jsonl or .conll")
    parser.add_argument("--for", dest="goal", choices=GOALS, default="both", help="what matters more to you")
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring, a candidate and round")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, metavar="FILE", help="profile to write (default: beside the bundle)")


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    texts, console = spread(read_texts(args.texts), args.texts), Console(highlight=False)
    chosen, measured = tune(args.bundle, texts, args.goal, args.seconds, args.device, console.print)
    table = Table(
        "threads", "at once", "spinning", "arena", "call", "padding", "round", "one text, ms", "texts/s", box=None
    )
    for one in measured:
        settings = one.profile
        marks = ("on" if flag else "off" for flag in (settings.spinning, settings.arena))
        counts = (
            settings.threads,
            settings.parallel,
            *marks,
            settings.call_tokens,
            settings.padding_tokens,
            settings.round_tokens,
        )
        row = (*map(str, counts), f"{1000 * one.alone_s:.2f}", f"{one.per_s:.1f}")
        table.add_row(*row, style="bold green" if settings == chosen else "")
    console.print(table)
    file = args.out or profiles.default_file(args.bundle)
    figures = [{**asdict(one.profile), "alone_ms": 1000 * one.alone_s, "per_s": one.per_s} for one in measured]
    profiles.write(file, args.bundle, chosen, figures)
    console.print(f"wrote {file}; `smallm serve {args.bundle}` reads it" + (" with --profile" if args.out else ""))
    return 0


def spread(texts: Sequence[str], file: Path) -> list[str]:
    """At most TEXTS of `texts`, evenly spread. Raises DataError if there is none."""
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise DataError("no text in it", source=str(file))
    return list(texts[:: max(1, len(texts) // TEXTS)][:TEXTS])


def tune(
    folder: Path, texts: Sequence[str], goal: str, seconds: float, device: str, say: Callable[[str], Any]
) -> tuple[Profile, list[Measured]]:
    """The best profile, and all that was measured. One setting after the other, from what matters most."""
    best, measured = profiles.untuned(bundle.read(folder).encoder.hidden, device), list[Measured]()
    for title, candidates in _questions():
        say(f"measuring {title}")
        found = _compare(folder, candidates(best), texts, seconds, device)
        measured += found
        for one in found[1:]:
            holder = next(other for other in reversed(found) if other.profile == best)
            if one.score(goal) > WORTH * holder.score(goal):
                best = one.profile
    return best, measured


def _questions() -> list[tuple[str, Callable[[Profile], list[Profile]]]]:
    """Candidates given the best so far, which is the first of them."""
    cpus = available_cpus()
    shares = [(threads, cpus // threads) for threads in (cpus, cpus // 2, cpus // 4, 1) if threads > 0]
    return [
        (
            "threads inside a session against several sessions",
            lambda best: list(dict.fromkeys([best, *(replace(best, threads=t, parallel=p) for t, p in shares)])),
        ),
        (
            "spinning threads and the memory arena",
            lambda best: [best, replace(best, spinning=True), replace(best, arena=True)],
        ),
        (
            "tokens in an encoder call",
            lambda best: [best, *(replace(best, call_tokens=tokens) for tokens in (64, 128, 256, 512, 2048))],
        ),
        ("padding", lambda best: [best, *(replace(best, padding_tokens=tokens) for tokens in (0, 4, 8, 32, 64))]),
        (
            "tokens in a round",
            lambda best: [best, *(replace(best, round_tokens=tokens) for tokens in (512, 1024, 4096))],
        ),
    ]


def _compare(
    folder: Path, candidates: Sequence[Profile], texts: Sequence[str], seconds: float, device: str
) -> list[Measured]:
    """Candidates in turn, again and again, so that a slow moment of the machine meets all of them."""
    engines = [Engine.load(folder, device=device, profile=candidate) for candidate in candidates]
    alone: list[list[float]] = [[] for _ in engines]
    rates: list[list[float]] = [[] for _ in engines]
    for engine in engines:
        saturated(engine, texts, seconds / 4)
    for _ in range(ROUNDS):
        for index, engine in enumerate(engines):
            alone[index].append(one_by_one(engine, texts, seconds / 2))
            rates[index].append(saturated(engine, texts, seconds / 2))
    return [
        Measured(candidate, median(times), median(rate))
        for candidate, times, rate in zip(candidates, alone, rates, strict=True)
    ]


def one_by_one(engine: Engine, texts: Sequence[str], seconds: float) -> float:
    """Median seconds of texts that come one at a time."""
    took, end = list[float](), time.perf_counter() + seconds
    for text in itertools.cycle(texts):
        begin = time.perf_counter()
        engine.run([Item(text)] if len(engine.domains) == 1 else [Item(text, engine.domains[0])])
        took.append(time.perf_counter() - begin)
        if time.perf_counter() > end:
            return median(took)
    raise AssertionError("no texts")


def saturated(engine: Engine, texts: Sequence[str], seconds: float) -> float:
    """Texts a second where there are always enough for a full round."""
    profile, domain = engine.profile, engine.domains[0]
    endless = itertools.cycle(texts)
    end = time.perf_counter() + seconds

    def work() -> int:
        done = 0
        while time.perf_counter() < end:
            batch, tokens = list[Work](), 0
            while tokens < profile.round_tokens:
                text = next(endless)
                tokens += len(text) + 2
                batch.append(Work(Item(text, domain)))
            waiting = batch
            while waiting:
                engine.step(waiting)
                waiting = [one for one in waiting if one.result is None]
            done += len(batch)
        return done

    begin = time.perf_counter()
    with ThreadPoolExecutor(profile.parallel) as pool:
        done = sum(future.result() for future in [pool.submit(work) for _ in range(profile.parallel)])
    return done / (time.perf_counter() - begin)
