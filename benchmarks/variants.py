"""Size and speed of an encoder's variants: the embedded one, a folder's, or BERT-base's shape with random weights.

    python benchmarks/variants.py [--encoder FOLDER | --base]

One text at a time, on all usable CPUs, the variants taking turns; the tokens are random, so are the weights of --base.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from smallm_export.encoder_graph import export_encoder
from smallm_export.variants import Encoders
from smallm_runtime.sessions import available_cpus, open_session

from smallm.encoder import resolve

LENGTHS = (32, 64, 128)
VARIANTS = ("fp32", "int8")


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="", help="encoder folder (default: the embedded one)")
    parser.add_argument("--base", action="store_true", help="12 layers of 768, vocabulary of 21,128, random weights")
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = _base(scratch / "bert") if args.base else resolve(args.encoder or "embedded").folder
        _measure(folder, scratch, args.rounds, [12] if args.base else [0, 1, 2, 3, 4])


def _measure(folder: Path, scratch: Path, rounds: int, layers: list[int]) -> None:
    rng = np.random.default_rng(0)
    feeds = [_feed(rng, length) for length in (16, 32, 48, 64, 96, 128) for _ in range(3)]
    plain = scratch / "encoder.onnx"
    export_encoder(folder, layers, plain)
    encoders = Encoders(plain, folder / "config.json", feeds, reduce_range=True)
    made = {name: encoders.write(name, scratch / f"{name}.onnx", []) for name in VARIANTS}
    sessions = {name: open_session(scratch / f"{name}.onnx", available_cpus()) for name in VARIANTS}
    print(f"{available_cpus()} CPUs; fp32: {made['fp32']}\n")
    print("| variant | MB | " + " | ".join(f"{length} tokens, p50 ms" for length in LENGTHS) + " |")
    print("|---|---|" + "---|" * len(LENGTHS))
    taken: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for length in LENGTHS:
            feed = _feed(rng, length)
            for variant, session in sessions.items():
                begin = time.perf_counter()
                session.run(None, feed)
                taken.setdefault((variant, length), []).append(1000 * (time.perf_counter() - begin))
    for variant in VARIANTS:
        size = (scratch / f"{variant}.onnx").stat().st_size / 1e6
        figures = " | ".join(f"{statistics.median(taken[variant, length]):.2f}" for length in LENGTHS)
        print(f"| {variant} | {size:.1f} | {figures} |")


def _feed(rng: np.random.Generator, length: int) -> dict[str, np.ndarray]:
    ids = rng.integers(5, 3000, (1, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _base(folder: Path) -> Path:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=21_128)).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
