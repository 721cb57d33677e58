"""Latency, throughput, CPU, memory and cold start of a bundle, in three layers: session, in process, over gRPC.

    python benchmarks/latency.py BUNDLE [--texts YOURS.jsonl] --out DIR

Texts are a dataset's own, so lengths are real. Writes DIR/latency.json, latency.md and latency.png. The load is made
by this process, on the same CPUs: `per_s_alone` leaves its CPU time out. Keep the machine quiet.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from loads import Run, closed, message, opened, percentile, sequential
from report import markdown, plot
from served import Served, smallm_serve
from smallm_runtime.engine import Engine, Item
from smallm_runtime.sessions import available_cpus, open_session
from smallm_runtime.variants import choose

from smallm import bundle
from smallm.client import Client
from smallm.formats import read_documents
from smallm.tokenization import TextTokenizer

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "examples" / "work_orders" / "test.jsonl"
sys.path.insert(0, str(ROOT))
LOADS = (0.3, 0.7, 0.9, 3.0)  # of the capacity that the closed loop found
CALLERS = (1, 8, 32)


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--texts", type=Path, default=SAMPLE, help="dataset whose texts are asked (default: the sample)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--starts", type=int, default=5, help="cold starts")
    parser.add_argument("--growth", type=int, default=50_000, help="requests after which memory must not have grown")
    parser.add_argument("--sweep-step", type=int, default=7, help="between the lengths of the memory sweep")
    parser.add_argument("--only", nargs="*", choices=list(SECTIONS), default=list(SECTIONS))
    args = parser.parse_args()
    bench = Bench(args)
    found: dict[str, Any] = {"about": bench.about()}
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        found[name] = SECTIONS[name](bench)
        (args.out / "latency.json").write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    (args.out / "latency.md").write_text(markdown(found), encoding="utf-8")
    if "open" in found:
        plot(found, args.out / "latency.png")
    print(markdown(found))


class Bench:
    """What is measured, and on which texts."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.bundle, self.seconds = args, args.bundle, args.seconds
        self.texts = [document.text for document in read_documents(args.texts) if document.text.strip()]
        self._number = itertools.count()
        self.capacity = 0.0

    def fresh(self, count: int) -> list[str]:
        """Texts of the real lengths that were never asked before: four of their characters are a number."""
        chosen = random.Random(0).choices(self.texts, k=count)
        return [f"{next(self._number):04d}{text[4:]}" if len(text) > 4 else text for text in chosen]

    def about(self) -> dict[str, Any]:
        """What a reader has to know."""
        lengths = sorted(len(text) for text in self.texts)
        return {
            "bundle": self.bundle.name,
            "bundle_mb": round(bundle.size(self.bundle) / 1e6, 1),
            "variant": choose(bundle.read(self.bundle, verify=False), "cpu"),
            "cpus": available_cpus(),
            "texts": len(lengths),
            "characters_p50": median(lengths),
            "characters_p95": percentile(lengths, 0.95),
        }

    def server(self, *options: str, cache: bool = False) -> Served:
        """A server that remembers nothing unless told to."""
        return Served(smallm_serve(self.bundle, *options, *(() if cache else ("--cache-mb", "0"))))

    def count(self, one_s: float, most: int = 20_000) -> int:
        """How many calls of `one_s` seconds fill the time."""
        return max(5, min(most, int(self.seconds / one_s)))


def session(bench: Bench) -> dict[str, Any]:
    """The encoder alone: one text at a time, and all of them sorted by length in calls without much padding."""
    tokenizer = TextTokenizer.load(bench.bundle)
    chosen = choose(bundle.read(bench.bundle, verify=False), "cpu")
    encoder = open_session(bench.bundle / bundle.encoder_file(chosen), available_cpus())
    parts = [tokenizer.encode(text).ids[:510] for text in bench.texts]
    took = []
    end = time.perf_counter() + bench.seconds
    for part in itertools.cycle(parts):
        begin = time.perf_counter()
        encoder.run(None, tokenizer.encoder_inputs([part]))
        took.append(1000 * (time.perf_counter() - begin))
        if time.perf_counter() > end:
            break
    rates = {size: _sorted_rate(encoder, tokenizer, parts, size, bench.seconds / 4) for size in (1, 4, 8, 16)}
    took.sort()
    best = max(rates, key=lambda size: rates[size])
    return {
        "p50_ms": round(percentile(took, 0.5), 3),
        "p95_ms": round(percentile(took, 0.95), 3),
        "p99_ms": round(percentile(took, 0.99), 3),
        "per_s": round(rates[best], 1),
        "sorted_batch": best,
    }


def _sorted_rate(encoder: Any, tokenizer: TextTokenizer, parts: list[list[int]], size: int, seconds: float) -> float:
    ordered, done, begin = sorted(parts, key=len), 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        for first in range(0, len(ordered), size):
            encoder.run(None, tokenizer.encoder_inputs(ordered[first : first + size]))
        done += len(ordered)
    return done / (time.perf_counter() - begin)


def in_process(bench: Bench) -> dict[str, Any]:
    """The engine: tokens, encoder, head and decoding, one text at a time."""
    engine = Engine.load(bench.bundle)
    domain, took, cpu = engine.domains[0], list[float](), time.process_time()
    engine.run([Item(text, domain) for text in bench.texts[:8]])
    begin = time.perf_counter()
    for text in bench.fresh(20_000):
        sent = time.perf_counter()
        engine.run([Item(text, domain)])
        took.append(1000 * (time.perf_counter() - sent))
        if time.perf_counter() - begin > bench.seconds:
            break
    cpu_ms = 1000 * (time.process_time() - cpu) / len(took)
    run = Run(sorted(took), seconds=time.perf_counter() - begin)
    return {**run.figures(), "server_cpu_ms": round(cpu_ms, 3)}


def unary(bench: Bench) -> dict[str, Any]:
    """One call at a time over gRPC, in turns with the same texts in process; one of 40 characters; a repeated one."""
    engine = Engine.load(bench.bundle)
    domain, texts = engine.domains[0], bench.fresh(64)
    begin = time.perf_counter()
    engine.run([Item(text, domain) for text in texts[:16]])
    count = bench.count((time.perf_counter() - begin) / 8, 4000)
    found: dict[str, Any] = {}
    inside: list[float] = []
    outside: list[float] = []
    with bench.server() as server:
        for _ in range(8):  # in turns: a slow moment of the machine meets both
            asked = bench.fresh(max(4, count // 8))
            run = _with_cpu(server, partial(sequential, server.address, [message(t) for t in asked]))
            outside += run.took_ms
            for text in asked:
                sent = time.perf_counter()
                engine.run([Item(text, domain)])
                inside.append(1000 * (time.perf_counter() - sent))
        forty = [
            f"{number:04d}号循环泵机封漏油，更换机械密封后试车正常，振动值在允许范围之内继续观察运"
            for number in range(count)
        ]
        assert {len(text) for text in forty} == {40}
        found["40 characters"] = _with_cpu(
            server, partial(sequential, server.address, [message(t) for t in forty])
        ).figures()
    found["over gRPC"], found["in process"] = Run(sorted(outside)).figures(), Run(sorted(inside)).figures()
    found["overhead_p50_ms"] = round(found["over gRPC"]["p50_ms"] - found["in process"]["p50_ms"], 3)
    with bench.server(cache=True) as server:
        again = [message(bench.texts[0])] * 4000
        found["repeated text"] = _with_cpu(server, partial(sequential, server.address, again)).figures()
        found["repeated text, 16 callers"] = _with_cpu(server, partial(closed, server.address, again * 3, 16)).figures()
    return found


def closed_loop(bench: Bench) -> dict[str, Any]:
    """So many callers at once; the best rate is the capacity."""
    found: dict[str, Any] = {}
    with bench.server() as server:
        warm = closed(server.address, [message(text) for text in bench.fresh(64)], 8)
        for callers in CALLERS:
            asked = [message(text) for text in bench.fresh(bench.count(1 / warm.rate))]
            run = _with_cpu(server, partial(closed, server.address, asked, callers))
            alone = run.rate_without_client(available_cpus())
            found[f"{callers} callers"] = {**run.figures(), "per_s_alone": round(alone, 1)}
            bench.capacity = max(bench.capacity, run.rate)
    return found


def open_loop(bench: Bench) -> dict[str, Any]:
    """Calls at random times, at shares of the capacity; the last is overload."""
    if not bench.capacity:
        closed_loop(bench)
    found: dict[str, Any] = {}
    with bench.server() as server:
        sequential(server.address, [message(text) for text in bench.fresh(32)])
        for load in LOADS:
            rate = load * bench.capacity
            asked = [message(text) for text in bench.fresh(min(9000, int(2 * rate * bench.seconds) + 10))]
            run = _with_cpu(server, partial(opened, server.address, asked, rate, bench.seconds, 60))
            figures = {"offered_per_s": round(rate, 1), **run.figures()}
            found[f"{load:g} x capacity"] = {**figures, "refused_p99_ms": round(percentile(run.refused_ms, 0.99), 1)}
    return found


def llm(bench: Bench) -> dict[str, Any]:
    """What the bridge adds: no LLM, a remembered answer, and asking one that answers at once."""
    import tempfile

    from tests.fake_llm import FakeLLM

    found: dict[str, Any] = {}
    count = min(300, bench.count(0.02))
    with tempfile.TemporaryDirectory() as folder, FakeLLM() as fake:
        store = ("--answers", str(Path(folder) / "answers.sqlite"))
        with bench.server(*store, "--llm-url", fake.url, "--llm-model", "m") as server:
            texts = bench.fresh(count)
            for name, mode in (("off", "off"), ("miss", "wait"), ("hit", "cached_only")):
                asked = [message(text, mode) for text in texts]
                found[name] = _with_cpu(server, partial(sequential, server.address, asked)).figures()
    return found


def memory(bench: Bench) -> dict[str, Any]:
    """Resident MB after start, after batches of all lengths up to 512, and after many requests more."""
    alphabet = "".join(sorted({c for text in bench.texts for c in text if "\u4e00" <= c <= "\u9fff"}))
    chance = random.Random(0)
    with bench.server(cache=True) as server, Client(server.address) as client:
        found = {"started_mb": server.resident_mb()}
        for length in (*range(1, 512, bench.args.sweep_step), 512):
            client.recognize_batch(["".join(chance.choices(alphabet, k=length)) for _ in range(16)], llm_mode="off")
        found["after_sweep_at_once_mb"] = server.resident_mb()
        time.sleep(2)  # at rest, the server gives back what large batches left
        found["after_sweep_mb"] = server.resident_mb()
        asked = [message("".join(chance.choices(alphabet, k=8))) for _ in range(bench.args.growth)]
        half = len(asked) // 2
        closed(server.address, asked[:half], 32)
        found["half_way_mb"] = server.resident_mb()
        closed(server.address, asked[half:], 32)
        found |= {"after_growth_mb": server.resident_mb(), "peak_mb": server.peak_mb()}
    return {name: round(value, 1) for name, value in found.items()} | {"requests": len(asked)}


def cold_start(bench: Bench) -> dict[str, Any]:
    """Seconds from the process's start to SERVING, files in the page cache."""
    took, cpu = list[float](), list[float]()
    for _ in range(bench.args.starts + 1):
        with bench.server() as server:
            took.append(server.cold_start_s)
            cpu.append(server.cpu_s())
    return {
        "median_s": round(median(took[1:]), 3),
        "least_s": round(min(took[1:]), 3),
        "cpu_s": round(median(cpu[1:]), 3),
    }


def _with_cpu(server: Served, load: Callable[[], Run]) -> Run:
    before = server.cpu_s()
    run = load()
    run.server_cpu_s = server.cpu_s() - before
    return run


SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "session": session,
    "in process": in_process,
    "unary": unary,
    "closed": closed_loop,
    "open": open_loop,
    "llm": llm,
    "memory": memory,
    "cold start": cold_start,
}

if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
