"""`smallm train`: a data folder and LLM answers to a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from smallm import model_folder
from smallm.bundle import DOMAIN_NAME
from smallm.encoder import EMBEDDED, resolve
from smallm.errors import DataError
from smallm.fusion import Way
from smallm.llm.recordings import read_answers
from smallm.model_folder import HeadShape, Model, Reference
from smallm.scoring import score
from smallm_train.data import TrainingData, read_training_data
from smallm_train.examples import Example, prepare
from smallm_train.features import FrozenEncoder
from smallm_train.head import HEADS, WIDTHS, Head, build_head
from smallm_train.loop import Options, Progress, dev_f1, emissions, fit

REFERENCES = 64  # texts of each split that travel with the model for calibration and parity


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    defaults = Options()
    parser.add_argument("data", type=Path, help="folder with train and dev files (.jsonl or .conll)")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--answers", type=Path, help="recorded LLM answers (.jsonl)")
    parser.add_argument("--prompt", type=Path, help="prompt of the answers (default: prompt.json beside them)")
    parser.add_argument("--encoder", default=EMBEDDED, help="'embedded' (default), a folder, or a Hugging Face name")
    parser.add_argument("--domain", help="name of the domain (default: the data folder's name)")
    parser.add_argument("--head", choices=list(HEADS), default="fusion", help="'paper' is the published head")
    parser.add_argument("--width", type=int, default=0, help=f"hidden size of the head (default: {WIDTHS})")
    parser.add_argument(
        "--shots", type=int, help="use only this many training texts (nested subsets); 0 needs --answers"
    )
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--max-epochs", type=int, default=defaults.max_epochs)
    parser.add_argument("--min-epochs", type=int, default=defaults.min_epochs)
    parser.add_argument("--patience", type=int, default=defaults.patience, help="epochs without a better dev score")
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    domain = _domain(args)
    options = Options(
        max_epochs=args.max_epochs,
        min_epochs=min(args.min_epochs, args.max_epochs),
        patience=args.patience,
        batch_size=args.batch_size,
        seed=args.seed,
    )
    recorded = read_answers(args.answers, args.prompt) if args.answers else None
    data = read_training_data(args.data, recorded, args.shots, args.seed)
    encoder = FrozenEncoder(resolve(args.encoder))
    print(
        f"{len(data.train.documents)} train texts ({data.train.answered} with an LLM answer), "
        f"{len(data.dev.documents)} dev texts ({data.dev.answered}); types: {', '.join(data.labels.types)}"
    )
    train = prepare(data.train.documents, data.train.answers, encoder, data.labels, "encoding train")
    dev = prepare(data.dev.documents, data.dev.answers, encoder, data.labels, "encoding dev")
    torch.manual_seed(args.seed)
    head = build_head(args.head, data.labels, len(encoder.layers), encoder.hidden, args.width)
    print(f"encoder '{args.encoder}' frozen; head '{args.head}' with {head.num_parameters():,} trainable parameters")
    if train:
        with _Report(options) as report:
            best = fit(head, data.labels, train, dev, options, report)
    else:
        print("no labels: the head stays at step 0, which is the LLM")
        best = Progress(0, 0.0, *dev_f1(head, data.labels, dev))
    dev_scores = _dev_scores(data, best)
    way = choose(dev_scores)
    model = _model(args, domain, data, encoder, head, way, (train, dev))
    training = {"seed": args.seed, "shots": args.shots, "epoch": best.epoch, "dev_f1": dev_scores}
    training |= {"train_texts": len(train), "train_answers": data.train.answered, "dev_texts": len(dev)}
    model.training.update(training)
    model_folder.write(args.out, model, encoder.tokenizer)
    print("dev F1: " + ", ".join(f"{name} {100 * value:.1f}" for name, value in dev_scores.items()), end="")
    print(f" (epoch {best.epoch}); serving '{way}' where the LLM has answered. Wrote {args.out}")
    return 0


def choose(dev_scores: dict[str, float]) -> Way:
    """The best way on dev; on a tie the one that uses more: fused, then llm, then local."""
    ways = [way for way in (Way.FUSED, Way.LLM, Way.LOCAL) if way in dev_scores]
    return max(ways, key=lambda way: dev_scores[way])


def _domain(args: argparse.Namespace) -> str:
    name: str = args.domain or args.data.resolve().name
    if not DOMAIN_NAME.fullmatch(name):
        raise DataError(
            f"'{name}' is no domain name; give one with --domain: letters, digits, _ . -", source=str(args.data)
        )
    return name


def _dev_scores(data: TrainingData, best: Progress) -> dict[str, float]:
    if not data.dev.answered:
        return {str(Way.LOCAL): best.local}
    gold = [document.spans for document in data.dev.documents]
    llm = score(gold, [answer or () for answer in data.dev.answers])["f1"]
    return {str(Way.LLM): llm, str(Way.LOCAL): best.local, str(Way.FUSED): best.fused}


def _model(
    args: argparse.Namespace,
    domain: str,
    data: TrainingData,
    encoder: FrozenEncoder,
    head: Head,
    way: Way,
    examples: tuple[list[Example], list[Example]],
) -> Model:
    train, dev = (_references(head, part, encoder.window, args.seed) for part in examples)
    return Model(
        domain=domain,
        labels=data.labels,
        encoder_name=encoder.encoder.name,
        encoder_fingerprint=encoder.encoder.fingerprint,
        window=encoder.window,
        head=HeadShape(args.head, args.width or WIDTHS[args.head], encoder.layers, encoder.hidden, head.alpha),
        weights={name: value.numpy() for name, value in head.state_dict().items()},
        way=way,
        prompt=data.prompt,
        dev_references=dev,
        train_references=train,
    )


def _references(head: Head, examples: list[Example], window: int, seed: int) -> list[Reference]:
    fitting = [example for example in examples if 0 < len(example.tokens) <= window]
    order = np.random.default_rng(seed).permutation(len(fitting))[:REFERENCES]
    chosen = [fitting[index] for index in order]
    scores = emissions(head, chosen, with_votes=True)
    return [
        Reference(np.array(example.tokens.ids, dtype=np.int64), example.votes, example.tags, emitted)
        for example, emitted in zip(chosen, scores, strict=True)
    ]


class _Report:
    """A progress bar over epochs with the latest dev scores."""

    def __init__(self, options: Options) -> None:
        columns = (TextColumn("training"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._bar = Bar(*columns)
        self._task = self._bar.add_task("", total=options.max_epochs)

    def __enter__(self) -> _Report:
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        dev = f"dev fused {progress.fused:.3f} local {progress.local:.3f}"
        figures = f"epoch {progress.epoch}  loss {progress.loss:.2f}  {dev}"
        self._bar.update(self._task, completed=progress.epoch, description=figures)
