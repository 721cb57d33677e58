"""A bundle against what else serves the same encoder: same weights and texts, in one run, in turns.

    python benchmarks/compare.py BUNDLE ENCODER_DIR --out DIR [--servers litserve pytriton]

The others get a linear layer on the encoder's last layer and `transformers`' spans; the bundle does more: its head, a
CRF and calibrated confidences. Checked first: the same tokens, and from the same linear layer the same labels. The
peers are in the `bench` extra; `--python` names the interpreter of their servers, where it is another one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from loads import Run, closed, message
from report import markdown
from served import Process, Served, smallm_serve
from smallm_runtime.engine import Engine, Item
from smallm_runtime.sessions import available_cpus, open_session
from smallm_runtime.variants import choose

from smallm import bundle
from smallm.encoder import resolve
from smallm.formats import read_texts
from smallm.tokenization import TextTokenizer

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "examples" / "work_orders" / "test.jsonl"
LENGTHS = (32, 64, 128)
CALLERS = 16
LABELS = 13
Recognize = Callable[[list[str]], Any]


def main() -> None:
    """Check, measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("encoder", help="the bundle's encoder: a transformers folder, or embedded")
    parser.add_argument("--texts", type=Path, default=SAMPLE)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=12, help="a variant, length and round")
    parser.add_argument("--seconds", type=float, default=8.0, help="of load on a server, a round")
    parser.add_argument("--servers", nargs="*", choices=("litserve", "pytriton"), default=["litserve", "pytriton"])
    parser.add_argument("--python", default=sys.executable, help="interpreter of the other servers")
    args = parser.parse_args()
    texts = read_texts(args.texts)
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        model = classifier(args.encoder, args.bundle, Path(scratch) / "model")
        variants = inside(args.bundle, model)
        sizes = {"bundle": bundle.size(args.bundle), "transformers": (model / "model.safetensors").stat().st_size}
        found: dict[str, Any] = {"sizes, MB": {name: round(size / 1e6, 1) for name, size in sizes.items()}}
        for name, measure in (
            ("same answers", partial(same_answers, args.bundle, model, texts)),
            ("in process, one text", partial(one_text, variants, texts, args.rounds, args.calls)),
            ("served, 16 callers", partial(served, args, model, texts)),
        ):
            print(f"{name} ...", file=sys.stderr, flush=True)
            found[name] = measure()
            (args.out / "compare.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (args.out / "compare.md").write_text(markdown(found), encoding="utf-8")
    print(markdown(found))


def classifier(encoder: str, packed: Path, folder: Path) -> Path:
    """The bundle's encoder with a random linear layer, as transformers saves it."""
    import torch
    from transformers import AutoModelForTokenClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    found = resolve(encoder)
    if found.fingerprint != bundle.read(packed, verify=False).encoder.fingerprint:
        raise SystemExit(f"{encoder} is not the encoder of {packed}")
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_pretrained(found.folder, num_labels=LABELS, local_files_only=True)
    types = model.base_model.embeddings.token_type_embeddings
    if types.num_embeddings == 1:  # optimum exports with an example of two
        types.weight = torch.nn.Parameter(types.weight.repeat(2, 1))
        model.config.type_vocab_size = 2
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        if (found.folder / name).is_file():
            shutil.copy2(found.folder / name, folder)
    return folder


def inside(packed: Path, model: Path) -> dict[str, Recognize]:
    """Ways to recognise in this process."""
    from optimum.onnxruntime import ORTModelForTokenClassification
    from transformers import AutoModelForTokenClassification, AutoTokenizer
    from transformers.pipelines import pipeline

    engine = Engine.load(packed)
    domain = engine.domains[0]
    tokenizer = AutoTokenizer.from_pretrained(model)
    make = partial(pipeline, "token-classification", tokenizer=tokenizer, aggregation_strategy="simple", device="cpu")
    variants: dict[str, Recognize] = {"smallm": lambda texts: engine.run([Item(text, domain) for text in texts])}
    for attention in ("sdpa", "eager"):
        torch_model = AutoModelForTokenClassification.from_pretrained(model, attn_implementation=attention)
        variants[f"transformers {attention}"] = make(model=torch_model)
    variants["optimum ONNX Runtime"] = make(model=ORTModelForTokenClassification.from_pretrained(model, export=True))
    return variants


def same_answers(packed: Path, model: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Share of tokens with the same label from the same linear layer over the bundle's encoder and transformers'."""
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    manifest, tokenizer = bundle.read(packed), AutoTokenizer.from_pretrained(model)
    encoder, own = (
        open_session(packed / bundle.encoder_file(choose(manifest, "cpu")), available_cpus()),
        TextTokenizer.load(packed),
    )
    reference = AutoModelForTokenClassification.from_pretrained(model).eval()
    layer = reference.classifier
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    if manifest.encoder.layers[-1] != reference.config.num_hidden_layers:
        raise SystemExit("the bundle's head does not read the encoder's last layer")
    same = tokens = 0
    for text in texts:
        encoded = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            expected = reference(**encoded).logits[0, 1:-1].argmax(-1).numpy()
        ids = encoded["input_ids"][0, 1:-1].tolist()
        ours = own.encode(text).ids
        if ids != ours:
            raise SystemExit("the bundle's tokens are not transformers' tokens")
        features = encoder.run(None, own.encoder_inputs([ours]))[0][0, 1:-1, -1]
        same += int((np.argmax(features @ weight.T + bias, axis=-1) == expected).sum())
        tokens += len(ids)
    return {"tokens": tokens, "same_labels": round(same / tokens, 5), "variant": choose(manifest, "cpu")}


def one_text(variants: dict[str, Recognize], texts: Sequence[str], rounds: int, calls: int) -> dict[str, Any]:
    """p50 in milliseconds by variant and length, and how many times slower than smallm."""
    together = "".join(texts)
    took: dict[str, dict[int, list[float]]] = {name: {length: [] for length in LENGTHS} for name in variants}
    chance = random.Random(0)
    for variant in variants.values():
        variant([together[:64]])
    for _ in range(rounds):
        for length in LENGTHS:
            starts = [chance.randrange(len(together) - length) for _ in range(calls)]
            for name, variant in variants.items():
                for start in starts:
                    begin = time.perf_counter()
                    variant([together[start : start + length]])
                    took[name][length].append(1000 * (time.perf_counter() - begin))
    found: dict[str, Any] = {}
    for name, by_length in took.items():
        p50 = {length: median(times) for length, times in by_length.items()}
        found[name] = {f"{length} chars, p50 ms": round(value, 2) for length, value in p50.items()}
        found[name]["times smallm"] = round(median(p50[n] / median(took["smallm"][n]) for n in LENGTHS), 2)
    return found


def served(args: argparse.Namespace, model: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Answers a second at saturation with mixed real lengths; servers run alone, in turns."""
    rates: dict[str, list[float]] = {}
    alone: dict[str, list[float]] = {}
    for _ in range(max(1, args.rounds // 2)):
        with Served([*smallm_serve(args.bundle), "--cache-mb", "0"]) as server:
            closed(server.address, [message(text) for text in texts[:16]], CALLERS)
            rate = closed(server.address, [message(text) for text in texts], CALLERS).rate
            run = closed(server.address, list(map(message, fresh(texts, rate * args.seconds))), CALLERS)
            _note("smallm", run, rates, alone)
        for name in args.servers:
            with peer(args.python, name, model) as ask:
                asyncio.run(_load(ask, list(texts[:16])))
                rate = asyncio.run(_load(ask, list(texts[:64]))).rate
                _note(name, asyncio.run(_load(ask, fresh(texts, rate * args.seconds))), rates, alone)
    return {
        name: {"per_s": round(median(rates[name]), 1), "per_s_alone": round(median(alone[name]), 1)}
        | {"smallm times": round(median(alone["smallm"]) / median(alone[name]), 2)}
        for name in rates
    }


def fresh(texts: Sequence[str], count: float) -> list[str]:
    """`count` texts, all different."""
    return [f"{number:05d}{text[5:]}" for number, text in enumerate(random.Random(1).choices(texts, k=int(count) + 8))]


def _note(name: str, run: Run, rates: dict[str, list[float]], alone: dict[str, list[float]]) -> None:
    rates.setdefault(name, []).append(run.rate)
    alone.setdefault(name, []).append(run.rate_without_client(available_cpus()))


Ask = Callable[[str], Awaitable[Any]]


@contextmanager
def peer(python: str, name: str, model: Path) -> Iterator[Callable[[], Any]]:
    """A server of `peers.py`; yields what makes a connection to it."""
    port = 18000 + random.randrange(2000)
    command = [python, str(Path(__file__).with_name("peers.py")), name, str(model), str(port)]
    with Process(command):
        connect = partial({"litserve": LitServeClient, "pytriton": TritonClient}[name], port)
        give_up = time.monotonic() + 120
        while True:
            try:
                asyncio.run(_load(connect, ["泵"]))
                break
            except Exception:
                if time.monotonic() > give_up:
                    raise SystemExit(f"{name} did not start; see the bench extra") from None
                time.sleep(1)
        yield connect


class LitServeClient:
    """LitServe over HTTP."""

    def __init__(self, port: int) -> None:
        import httpx

        self._client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60)

    async def __call__(self, text: str) -> None:
        """Ask."""
        (await self._client.post("/predict", json={"text": text})).raise_for_status()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


class TritonClient:
    """Triton over gRPC."""

    def __init__(self, port: int) -> None:
        from tritonclient.grpc import InferInput
        from tritonclient.grpc.aio import InferenceServerClient

        self._input, self._client = InferInput, InferenceServerClient(f"127.0.0.1:{port + 1}")

    async def __call__(self, text: str) -> None:
        """Ask."""
        given = self._input("text", [1, 1], "BYTES")
        given.set_data_from_numpy(np.array([[text.encode()]], dtype=object))
        await self._client.infer("ner", [given])

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()


async def _load(connect: Callable[[], Any], texts: Sequence[str]) -> Run:
    """CALLERS at once."""
    run, client, waiting = Run(), connect(), iter(texts)

    async def caller() -> None:
        for text in waiting:
            sent = time.perf_counter()
            await client(text)
            run.took_ms.append(1000 * (time.perf_counter() - sent))

    cpu, begin = time.process_time(), time.perf_counter()
    try:
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
    finally:
        await client.close()
    run.seconds, run.client_cpu_s = time.perf_counter() - begin, time.process_time() - cpu
    run.took_ms.sort()
    return run


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    main()
