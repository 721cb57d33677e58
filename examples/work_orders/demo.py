"""The whole path on the sample domain, through the commands a user types: train, evaluate, export, serve, ask."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median, quantiles

from rich.console import Console

from smallm import bundle
from smallm.client import Client
from smallm.formats import read_documents

HERE = Path(__file__).resolve().parent
OUT = Path("demo")
REQUESTS = 400  # for the latency figures
console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    """Run every step; stops at the first that fails."""
    begin = time.monotonic()
    shutil.rmtree(OUT, ignore_errors=True)
    model, packed, store = OUT / "model", OUT / "bundle", OUT / "answers.sqlite"
    answers, test = _relative(HERE / "answers.jsonl"), _relative(HERE / "test.jsonl")
    step("Train a head on 176 work orders and the LLM's answers; the encoder stays frozen")
    smallm("train", _relative(HERE), "--answers", answers, "--out", model)
    step("Export encoder and head to int8 ONNX, with parity measured")
    smallm("export-onnx", model, "--out", packed, "--search-exclude")
    step("Score the int8 bundle on 110 unseen work orders")
    smallm("evaluate", packed, test, "--answers", answers)
    step("Serve it through gRPC beside the LLM's remembered answers, and ask")
    smallm("llm", "import", answers, "--store", store)
    with server(packed, store) as address:
        texts = [document.text for document in read_documents(HERE / "test.jsonl")]
        for text in texts[20:23]:
            smallm("recognize", "--server", address, "--format", "view", text)
        smallm("recognize", "--server", address, "--format", "view", "--llm-mode", "off", texts[22])
        latency(address, texts)
    console.print(
        f"\nbundle: {bundle.size(packed) / 1e6:.1f} MB in {packed}/; all of this took {time.monotonic() - begin:.0f} s"
    )
    program = _relative(Path(sys.executable).with_name("smallm"))
    console.print("\nNext:")
    for words, purpose in (
        (f"serve {packed} --answers {store}", "the same server, yours to keep"),
        ('recognize "3号泵漏油，更换机封"', "ask it, from another terminal"),
        (f"serve {packed} --llm-url URL --llm-model NAME", "let it ask an OpenAI-compatible LLM"),
        ("train YOUR_DATA --answers YOUR_ANSWERS --out MODEL", "your own domain: see README.md"),
    ):
        console.print(f"  [bold]{program} {words}[/]\n      {purpose}")


class server:
    """`smallm serve` on a free port, stopped with SIGTERM."""

    def __init__(self, packed: Path, store: Path) -> None:
        # The texts are asked several times: without --cache-mb 0 the figures would be those of remembering.
        options = ["--listen", "127.0.0.1:0", "--no-log-calls", "--cache-mb", "0"]
        self._command = [*_smallm(), "serve", str(packed), "--answers", str(store), *options]

    def __enter__(self) -> str:
        console.print(f"[dim]$ smallm {shlex.join(self._command[3:])}[/]")
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        if not said:
            raise SystemExit("the server did not start")
        console.print(said)
        return said.rpartition(" ")[2]

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)


def latency(address: str, texts: list[str]) -> None:
    """Sequential unary calls, LLM answers cached and off in turn, and what a batch call adds in throughput."""
    times: dict[str, list[float]] = {"cached_only": [], "off": []}
    with Client(address) as client:
        for text in texts[:20]:
            client.recognize(text)
        for index in range(REQUESTS):
            for mode, taken in times.items():
                begin = time.perf_counter()
                client.recognize(texts[index % len(texts)], llm_mode=mode)
                taken.append(1000 * (time.perf_counter() - begin))
        begin = time.perf_counter()
        client.recognize_batch(texts)
        rate = len(texts) / (time.perf_counter() - begin)
    for mode, name in (("cached_only", "with the LLM's remembered answer"), ("off", "local only")):
        p95 = quantiles(times[mode], n=20)[-1]
        console.print(
            f"latency {name}: p50 {median(times[mode]):.1f} ms, p95 {p95:.1f} ms ({REQUESTS} calls, one at a time)"
        )
    console.print(f"throughput in one batch call of {len(texts)} texts: {rate:.0f} texts/s")


def smallm(*arguments: object) -> None:
    """Run a command as a user would, showing it first."""
    words = [str(argument) for argument in arguments]
    console.print(f"[dim]$ smallm {shlex.join(words)}[/]")
    if subprocess.run([*_smallm(), *words], env={**os.environ, "FORCE_COLOR": "1"} if _colours() else None).returncode:
        raise SystemExit(f"smallm {words[0]} failed")


def step(title: str) -> None:
    """Print a heading."""
    console.print(f"\n[bold]── {title}[/]")


def _smallm() -> list[str]:
    return [sys.executable, "-m", "smallm.cli"]


def _colours() -> bool:
    return console.is_terminal


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    main()
