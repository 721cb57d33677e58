"""`smallm pretrain`: from text files to an encoder folder."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from transformers import BertForMaskedLM
from transformers import logging as transformers_logging

from smallm import atomic
from smallm.documents import label_set
from smallm.encoder import Encoder, resolve
from smallm.errors import DataError
from smallm.formats import read_documents
from smallm.tokenization import TextTokenizer
from smallm_train.pretrain.batches import Example, block_example, silver_example
from smallm_train.pretrain.corpus import build_vocabulary, frequent_characters, read_lines, tokenize
from smallm_train.pretrain.loop import Progress, Schedule, TrainingData, pretrain, write_encoder
from smallm_train.pretrain.model import EncoderSize, PretrainingModel
from smallm_train.pretrain.start import load

HELD_OUT_BLOCKS = 160
POSITIONS = 256  # of a training block, with [CLS] and [SEP]
HELD_OUT_SILVER = 240


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("corpus", nargs="+", type=Path, help="text files (.txt, .txt.xz) or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="encoder folder to write")
    parser.add_argument("--work", type=Path, help="checkpoints and token cache (default: OUT.work); resumed if there")
    parser.add_argument(
        "--silver",
        type=Path,
        nargs="+",
        default=[],
        help="JSONL files with open-type entities, roles ...; a task each",
    )
    parser.add_argument(
        "--from", dest="start", metavar="ENCODER", help="go on from this encoder ('embedded', a folder, a hub name)"
    )
    parser.add_argument("--tokens", type=float, default=60e6, help="tokens to see (default 60e6)")
    parser.add_argument("--layers", type=int, default=0, help="default 4; with --from its own, or more to grow it")
    parser.add_argument("--hidden", type=int, default=256, help="without --from")
    parser.add_argument("--heads", type=int, default=4, help="without --from")
    parser.add_argument("--rate", type=float, default=0.0, help="peak learning rate (default 1e-3; 3e-4 with --from)")
    parser.add_argument("--decay-share", type=float, default=0.5, help="last part of the run, in which the rate falls")
    parser.add_argument("--silver-every", type=int, default=20, help="every n-th batch is a silver one")
    parser.add_argument("--device", default="cpu", help="a torch device: cpu, cuda")
    parser.add_argument("--compile", action="store_true", help="compile the model (needs a C++ compiler)")
    parser.add_argument("--min-count", type=int, default=3, help="rarer characters become [UNK]")
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    transformers_logging.set_verbosity_error()
    torch.manual_seed(args.seed)
    work = args.work or args.out.with_name(args.out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    lines = read_lines(args.corpus)
    print(f"{len(lines)} lines; tokenising and labelling with jieba (kept in {work})", flush=True)
    start = resolve(args.start) if args.start else None
    silver = {file.stem: read_documents(file) for file in args.silver}
    if len(silver) < len(args.silver):
        raise DataError("two --silver files have the same name; their tasks are called by it")
    texts = [document.text for documents in silver.values() for document in documents]
    tokenizer = _tokenizer(work, [*lines, *texts], args.min_count, start)
    label_sets = [label_set(documents) for documents in silver.values()]
    examples = {
        name: [silver_example(document, labels, tokenizer, kind) for document in documents]
        for kind, (labels, (name, documents)) in enumerate(zip(label_sets, silver.items(), strict=True))
    }
    mlm = load(start, tokenizer, args.layers) if start else _fresh(args, tokenizer)
    data = _data(lines, tokenizer, examples, mlm.config.max_position_embeddings, work)
    model = PretrainingModel(mlm, [labels.num_tags for labels in label_sets]).to(args.device)
    if args.compile:
        mlm.bert.compile(dynamic=False)
    schedule = Schedule(
        tokens=int(args.tokens),
        peak_rate=args.rate or (3e-4 if start else 1e-3),
        decay_share=args.decay_share,
        silver_every=args.silver_every,
        save_every=args.save_every,
        seed=args.seed,
    )
    with _Report(work, schedule) as report:
        progress = pretrain(model, data, tokenizer, schedule, work, report)
    write_encoder(args.out, model, tokenizer)
    size = {"layers": mlm.config.num_hidden_layers, "hidden": mlm.config.hidden_size}
    card = {"command": shlex.join(["smallm", *sys.argv[1:]]), "tokens_seen": progress.tokens, "steps": progress.step}
    card |= {"size": size, "parameters": mlm.num_parameters(), "held_out": report.scores}
    if start:
        card["from"] = {"name": start.name, "fingerprint": start.fingerprint}
    atomic.write_json(args.out / "pretraining.json", card)
    print(f"wrote {args.out}: {json.dumps(report.scores)}")
    return 0


def _fresh(args: argparse.Namespace, tokenizer: TextTokenizer) -> BertForMaskedLM:
    size = EncoderSize(args.layers or 4, args.hidden, args.heads)
    return BertForMaskedLM(size.config(tokenizer.vocabulary_size))


def _tokenizer(work: Path, lines: list[str], min_count: int, start: Encoder | None) -> TextTokenizer:
    """The run's own tokenizer, or that of the encoder it goes on from with the corpus's further characters."""
    file = work / "tokenizer.json"
    if not file.is_file():
        if start is None:
            tokenizer = TextTokenizer.from_vocabulary(build_vocabulary(lines, min_count))
        else:
            known = TextTokenizer.load(start.folder)
            tokenizer = known.extended(frequent_characters(lines, known, min_count))
        with atomic.new_file(file) as temporary:
            tokenizer.save(temporary)
    return TextTokenizer.load(work)


def _data(
    lines: list[str], tokenizer: TextTokenizer, silver: dict[str, list[Example]], positions: int, work: Path
) -> TrainingData:
    stream = tokenize(lines, tokenizer, work)
    blocks = stream.blocks(min(positions, POSITIONS) - 2)
    order = np.random.default_rng(77).permutation(len(blocks))
    held_out = min(HELD_OUT_BLOCKS, len(blocks) // 10)
    kept = {name: min(HELD_OUT_SILVER, len(examples) // 10) for name, examples in silver.items()}
    return TrainingData(
        stream=stream,
        blocks=blocks[order[held_out:]],
        silver=[examples[kept[name] :] for name, examples in silver.items()],
        held_out_blocks=[block_example(stream, *blocks[index]) for index in order[:held_out]],
        held_out_silver={name: examples[: kept[name]] for name, examples in silver.items()},
    )


class _Report:
    """A progress bar, and a line in `log.jsonl` per checkpoint."""

    def __init__(self, work: Path, schedule: Schedule) -> None:
        self._log = work / "log.jsonl"
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
            TimeRemainingColumn(),
        )
        self._bar = Bar(*columns)
        self._task = self._bar.add_task("pre-training", total=schedule.tokens)
        self._mean: dict[str, float] = {}
        self.scores: dict[str, float] = {}

    def __enter__(self) -> _Report:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            if not name.startswith("held_out_"):
                self._mean[name] = 0.98 * self._mean.get(name, value) + 0.02 * value
        losses = " ".join(f"{name} {value:.2f}" for name, value in self._mean.items())
        self._bar.update(self._task, completed=progress.tokens, description=f"step {progress.step} {losses}")
        scores = {
            name.removeprefix("held_out_"): round(value, 4)
            for name, value in figures.items()
            if name.startswith("held_out_")
        }
        if scores:
            self.scores = scores
            means = {name: round(value, 3) for name, value in self._mean.items()}
            record = {"step": progress.step, "tokens": progress.tokens, "loss": means, "held_out": scores}
            with self._log.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(record) + "\n")
