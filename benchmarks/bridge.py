"""The store of LLM answers beside `diskcache` and `litellm`'s cache, doing the same work in one run.

    pip install -c constraints.txt -e '.[dev,bench]'
    python benchmarks/bridge.py [--hits N] [--rounds N] [--texts N]

A hit is the whole way from prompt and text to one-hot rows (n, N), as each library's user has it: ours keeps
derived tags, the others the reply, which is parsed and aligned with our parser. `key to bytes` is the bare store.
Variants take turns in every round. Then a stampede: 200 callers, one text, an LLM on loopback that takes 0.3 s.
Needs `redis-server`. Prints Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch a list of prices when imported

import diskcache
import litellm
import numpy as np
from litellm.caching.caching import Cache

from smallm.labels import LabelSet
from smallm.llm import compact
from smallm.llm.bridge import Bridge
from smallm.llm.client import body
from smallm.llm.prompt import Prompt
from smallm.llm.question import Questions
from smallm.llm.reading import read_reply, reader
from smallm.llm.request import Model, ask
from smallm.llm.settings import BridgeSettings, Mode
from smallm.llm.store import AnswerStore, Record, open_store

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.fake_llm import FakeLLM, Fault  # noqa: E402
from tests.llm.redis_server import RedisServer  # noqa: E402

PROMPT = Prompt.load(ROOT / "examples" / "work_orders" / "prompt.json")
TYPES, LABELS = PROMPT.type_names, LabelSet(PROMPT.type_names)
URL, MODEL, LENGTH, CALLERS = "http://llm.local/v1", "m", 128, 200
Lookup = Callable[[str], Any]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hits", type=int, default=1000, help="hits a variant and round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--texts", type=int, default=1000, help="texts in each store")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, redis(Path(name)) as server:
        texts = _texts(args.texts)
        whole, bare = _variants(Path(name), server.url, texts)
        expanded = {name: _expanded(look) for name, look in bare.items() if name.startswith("smallm")}
        for title, variants in (
            ("whole hit: text to one-hot", whole),
            ("bare store: key to bytes", bare),
            ("stored bytes: key to one-hot", expanded),
        ):
            print(f"\n| {title} | hits/s | p50 us | p99 us |\n|---|---|---|---|")
            for variant, (rate, p50, p99) in _measure(variants, texts, args.rounds, args.hits).items():
                print(f"| {variant} | {rate:,.0f} | {p50:.0f} | {p99:.0f} |", flush=True)
        print(f"\n| stampede of {CALLERS} callers | calls made |\n|---|---|")
        for variant, calls in _stampedes(Path(name), server):
            print(f"| {variant} | {calls} |", flush=True)


@contextmanager
def redis(folder: Path) -> Iterator[RedisServer]:
    """A Redis of our own."""
    server = RedisServer(folder)
    try:
        yield server
    finally:
        server.close()


def _texts(count: int) -> list[str]:
    generator = random.Random(0)
    characters = [chr(code) for code in range(0x4E00, 0x4E00 + 2000)]
    return ["".join(generator.choices(characters, k=LENGTH)) for _ in range(count)]


def _reply(text: str) -> str:
    """Ten entities, as a work order of this length has."""
    cuts = range(0, 120, 12)
    entities = [{"W": text[i : i + 4], "L": TYPES[index % len(TYPES)]} for index, i in enumerate(cuts)]
    return json.dumps(entities, ensure_ascii=False, separators=(",", ":"))


def _variants(folder: Path, redis_url: str, texts: list[str]) -> tuple[dict[str, Lookup], dict[str, Lookup]]:
    endpoint = {"url": URL, "model": MODEL, "response_format": "text"}  # litellm's users have one format too
    questions = Questions(BridgeSettings.model_validate({"endpoint": [endpoint]}))
    model = Model(URL, MODEL)
    keys = {text: ask(model, PROMPT, text).key for text in texts}
    whole: dict[str, Lookup] = {}
    bare: dict[str, Lookup] = {}
    for name, address in (("smallm SQLite", str(folder / "s.sqlite")), ("smallm Redis", redis_url)):
        store = open_store(address)
        store.put([_entry(keys[text], text) for text in texts])
        whole[name] = _ours(questions, store)
        bare[name] = _tags(store, keys)
    packed = {text: _entry(keys[text], text)[1].tags for text in texts}
    replies, bytes_, used = (diskcache.Cache(folder / name) for name in ("replies", "bytes", "used"))
    used.reset("eviction_policy", "least-recently-used")
    for text in texts:
        replies[_digest(text)] = _reply(text)
        bytes_[keys[text]] = used[keys[text]] = packed[text]
    whole["diskcache"] = lambda text: _one_hot(replies[_digest(text)], text)
    bare["diskcache"] = lambda text: bytes_[keys[text]]
    bare["diskcache, least recently used"] = lambda text: used[keys[text]]
    host, port = redis_url.removeprefix("redis://").removesuffix("/0").split(":")
    disk = Cache(type=litellm.types.caching.LiteLLMCacheType.DISK, disk_cache_dir=str(folder / "litellm"))
    remote = Cache(type=litellm.types.caching.LiteLLMCacheType.REDIS, host=host, port=port)
    for name, cache in (("litellm disk", disk), ("litellm Redis", remote)):
        for text in texts:
            cache.add_cache(_completion(text), **_parameters(text))
            cache.cache.set_cache(keys[text], list(packed[text]))  # it reads values as Python literals
        whole[name] = _theirs(cache)
        bare[name] = _value(cache, keys)
    return whole, bare


def _entry(key: str, text: str) -> tuple[Record, Any]:
    record = Record(key, PROMPT.domain, URL, MODEL, text, TYPES, _reply(text))
    return record, record.derive()


def _ours(questions: Questions, store: AnswerStore) -> Lookup:
    def look(text: str) -> Any:
        question = questions.about(PROMPT, text)
        derived = store.tags(question.keys, question.reader)
        assert derived is not None
        return compact.one_hot(derived.tags, LABELS)

    return look


def _tags(store: AnswerStore, keys: dict[str, str]) -> Lookup:
    wanted = reader(TYPES)
    return lambda text: store.tags([keys[text]], wanted).tags  # type: ignore[union-attr]


def _expanded(look: Lookup) -> Lookup:
    return lambda text: compact.one_hot(look(text), LABELS)


def _theirs(cache: Cache) -> Lookup:
    return lambda text: _one_hot(cache.get_cache(**_parameters(text))["choices"][0]["message"]["content"], text)


def _value(cache: Cache, keys: dict[str, str]) -> Lookup:
    return lambda text: cache.cache.get_cache(keys[text])


def _parameters(text: str) -> dict[str, Any]:
    return {"model": MODEL, "messages": PROMPT.messages(text), "temperature": 0.0, "max_tokens": 2048}


def _digest(text: str) -> str:
    """What a careful user of diskcache takes for a key."""
    canonical = json.dumps(_parameters(text), ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _completion(text: str) -> Any:
    message = {"role": "assistant", "content": _reply(text)}
    return litellm.ModelResponse(model=MODEL, choices=[{"index": 0, "finish_reason": "stop", "message": message}])


def _one_hot(reply: str, text: str) -> Any:
    return compact.one_hot(compact.encode(read_reply(reply, text, TYPES), len(text), LABELS), LABELS)


def _measure(
    variants: dict[str, Lookup], texts: list[str], rounds: int, hits: int
) -> dict[str, tuple[float, float, float]]:
    """Hits per second (median of the rounds), p50 and p99 in microseconds, by variant."""
    expected = {name: look(texts[0]) for name, look in variants.items()}  # warm, and the same for all
    first = next(iter(expected.values()))
    if isinstance(first, np.ndarray):
        assert all(np.array_equal(first, rows) for rows in expected.values()) and first.shape[0] == LENGTH
    took: dict[str, list[list[float]]] = {name: [] for name in variants}
    generator = random.Random(1)
    for _ in range(rounds):
        asked = generator.choices(texts, k=hits)
        for name, look in variants.items():
            times = []
            for text in asked:
                begin = time.perf_counter()
                look(text)
                times.append(time.perf_counter() - begin)
            took[name].append(times)
    measured = {}
    for name, found in took.items():
        every = sorted(1e6 * one for times in found for one in times)
        rate = median(len(times) / sum(times) for times in found)
        measured[name] = rate, median(every), every[int(0.99 * len(every))]
    return measured


def _stampedes(folder: Path, server: RedisServer) -> Iterator[tuple[str, int]]:
    text = "三号循环泵漏油，更换机械密封"
    for name, address in (("smallm SQLite", str(folder / "stampede.sqlite")), ("smallm Redis", server.url)):
        with FakeLLM(fault=Fault(delay_s=0.3)) as fake:
            told = {"store": address, "endpoint": [{"url": fake.url, "model": MODEL}]}
            asyncio.run(_our_stampede(BridgeSettings.model_validate(told), text))
            yield name, len(fake.requests)
    with FakeLLM(fault=Fault(delay_s=0.3)) as fake:
        _disk_stampede(diskcache.Cache(folder / "stampede"), fake.url, text)
        yield "diskcache memoize", len(fake.requests)
    with FakeLLM(fault=Fault(delay_s=0.3)) as fake:
        litellm.cache = Cache(type=litellm.types.caching.LiteLLMCacheType.DISK, disk_cache_dir=str(folder / "theirs"))
        asyncio.run(_their_stampede(fake.url, text))
        yield "litellm disk", len(fake.requests)


async def _our_stampede(settings: BridgeSettings, text: str) -> None:
    bridge = Bridge(settings)
    answers = await asyncio.gather(*(bridge.answer(PROMPT, text, Mode.WAIT) for _ in range(CALLERS)))
    assert all(answer.spans is not None for answer in answers)
    await bridge.close()


def _disk_stampede(cache: diskcache.Cache, url: str, text: str) -> None:
    import openai

    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)

    @cache.memoize()  # type: ignore[untyped-decorator]
    def answer(text: str) -> str:
        parameters = body(ask(Model(url, MODEL), PROMPT, text), "max_tokens")
        return client.chat.completions.create(**parameters).choices[0].message.content or ""

    threads = [threading.Thread(target=answer, args=[text]) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def _their_stampede(url: str, text: str) -> None:
    parameters = {**_parameters(text), "model": f"openai/{MODEL}", "api_base": url, "api_key": "none"}
    await asyncio.gather(*(litellm.acompletion(**parameters, caching=True) for _ in range(CALLERS)))


if __name__ == "__main__":
    main()
