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
from safetensors.torch import save_file
from transformers import logging as transformers_logging

from smallm import atomic
from smallm.documents import label_set
from smallm.formats import read_documents
from smallm.labels import LabelSet
from smallm.tokenization import TextTokenizer
from smallm_train.pretrain.batches import Example, block_example, silver_example
from smallm_train.pretrain.corpus import build_vocabulary, read_lines, tokenize
from smallm_train.pretrain.loop import Progress, Schedule, TrainingData, pretrain
from smallm_train.pretrain.model import EncoderSize, PretrainingModel

HELD_OUT_BLOCKS = 160
HELD_OUT_SILVER = 240


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("corpus", nargs="+", type=Path, help="text files (.txt, .txt.xz) or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="encoder folder to write")
    parser.add_argument("--work", type=Path, help="checkpoints and token cache (default: OUT.work); resumed if there")
    parser.add_argument("--silver", type=Path, help="JSONL with open-type entities, one task among the others")
    parser.add_argument("--tokens", type=float, default=60e6, help="tokens to see (default 60e6)")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
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
    tokenizer = _tokenizer(work, lines, args.min_count)
    schedule = Schedule(tokens=int(args.tokens), save_every=args.save_every, seed=args.seed)
    size = EncoderSize(args.layers, args.hidden, args.heads)
    silver, entity_labels = _silver(args.silver, tokenizer)
    data = _data(lines, tokenizer, silver, size, work)
    model = PretrainingModel(size.config(tokenizer.vocabulary_size), entity_labels.num_tags if entity_labels else 1)
    with _Report(work, schedule) as report:
        progress = pretrain(model, data, tokenizer, schedule, work, report)
    write_encoder(args.out, model, tokenizer)
    card = {"command": shlex.join(["smallm", *sys.argv[1:]]), "tokens_seen": progress.tokens, "steps": progress.step}
    card |= {"size": size.describe(), "held_out": report.scores}
    atomic.write_json(args.out / "pretraining.json", card)
    print(f"wrote {args.out}: {json.dumps(report.scores)}")
    return 0


def write_encoder(out: Path, model: PretrainingModel, tokenizer: TextTokenizer) -> None:
    """Write the encoder as a Hugging Face folder: fp16 safetensors, config, tokenizer."""
    with atomic.new_directory(out) as folder:
        model.mlm.config.save_pretrained(folder)
        state = model.mlm.state_dict()
        tied = "cls.predictions.decoder."  # the same tensors as the word embeddings and the bias
        half = {name: value.half().contiguous() for name, value in state.items() if not name.startswith(tied)}
        save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
        tokenizer.save(folder / "tokenizer.json")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": model.mlm.config.max_position_embeddings,
        }
        config |= {
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "mask_token": "[MASK]",
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _tokenizer(work: Path, lines: list[str], min_count: int) -> TextTokenizer:
    file = work / "tokenizer.json"
    if not file.is_file():
        tokenizer = TextTokenizer.from_vocabulary(build_vocabulary(lines, min_count))
        with atomic.new_file(file) as temporary:
            tokenizer.save(temporary)
    return TextTokenizer.load(work)


def _silver(path: Path | None, tokenizer: TextTokenizer) -> tuple[list[Example], LabelSet | None]:
    if path is None:
        return [], None
    documents = read_documents(path)
    labels = label_set(documents)
    return [silver_example(document, labels, tokenizer) for document in documents], labels


def _data(
    lines: list[str], tokenizer: TextTokenizer, silver: list[Example], size: EncoderSize, work: Path
) -> TrainingData:
    stream = tokenize(lines, tokenizer, work)
    blocks = stream.blocks(size.positions - 2)
    order = np.random.default_rng(77).permutation(len(blocks))
    held_out = min(HELD_OUT_BLOCKS, len(blocks) // 10)
    kept_silver = min(HELD_OUT_SILVER, len(silver) // 10)
    return TrainingData(
        stream=stream,
        blocks=blocks[order[held_out:]],
        silver=silver[kept_silver:],
        held_out_blocks=[block_example(stream, *blocks[index]) for index in order[:held_out]],
        held_out_silver=silver[:kept_silver],
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
