"""`smallm train`: a data folder and LLM answers to a model folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
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
from smallm.fusion import Temperatures
from smallm.llm.recordings import read_answers
from smallm.model_folder import HeadShape, Model, Reference
from smallm_train.choice import Choice, choose
from smallm_train.data import TrainingData, read_training_data
from smallm_train.examples import Example, prepare
from smallm_train.features import FrozenEncoder
from smallm_train.head import HEADS, Head, build_head, default_width
from smallm_train.loop import Options, Progress, emissions, fit
from smallm_train.material import gather

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
    parser.add_argument("--width", type=int, default=0, help="hidden size of a member (default: by the encoder's)")
    parser.add_argument(
        "--shots", type=int, help="use only this many training texts (nested subsets); 0 needs --answers"
    )
    parser.add_argument(
        "--unlabelled",
        type=Path,
        help="further texts (.txt, .jsonl ...); the LLM's answers to them teach too",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--epochs", type=int, default=defaults.epochs, help="passes over the training texts")
    parser.add_argument("--min-steps", type=int, default=defaults.min_steps, help="more passes if these need them")
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    domain = _domain(args)
    options = Options(epochs=args.epochs, min_steps=args.min_steps, batch_size=args.batch_size, seed=args.seed)
    recorded = read_answers(args.answers, args.prompt) if args.answers else None
    data = read_training_data(args.data, recorded, args.shots, args.seed, args.unlabelled)
    encoder = FrozenEncoder(resolve(args.encoder))
    print(
        f"{len(data.train.documents)} train texts ({data.train.answered} with an LLM answer), "
        f"{len(data.dev.documents)} dev texts ({data.dev.answered}); types: {', '.join(data.labels.types)}"
    )
    dev = prepare(data.dev.documents, data.dev.answers, encoder, data.labels, "encoding dev")
    torch.manual_seed(args.seed)
    width = args.width or default_width(args.head, data.labels, len(encoder.layers), encoder.hidden)
    head = build_head(args.head, data.labels, len(encoder.layers), encoder.hidden, width)
    print(f"encoder '{args.encoder}' frozen; head '{args.head}' with {head.num_parameters():,} trainable parameters")
    material = gather(data.train, data.unlabelled, encoder, data.labels, head.members, args.seed)
    if material.unlabelled:
        print(f"learning first from the LLM's answers to {len(material.unlabelled)} unlabelled texts")
    if material.labelled or material.unlabelled:
        with _Report() as report:
            fit(head, material, options, report)
    else:
        print("no labels: the head stays at step 0, which is the LLM")
    taught = len(material.labelled) - len(material.known)
    if taught:
        print(f"the encoder has learned from {taught} of the training texts: they choose nothing")
    choice = choose(head, data.labels, material.known, dev)
    shape = HeadShape(args.head, width, encoder.layers, encoder.hidden, head.weights)
    model = _model(args, domain, data, encoder, head, shape, choice, (material.labelled, dev))
    training = {"seed": args.seed, "shots": args.shots, "options": asdict(options), "choice": asdict(choice)}
    training |= {
        "train_texts": len(material.labelled),
        "train_answers": data.train.answered,
        "unlabelled_texts": len(material.unlabelled),
        "dev_texts": len(dev),
    }
    model.training.update(training)
    model_folder.write(args.out, model, encoder.tokenizer)
    scores = ", ".join(f"{name} {100 * value:.1f}" for name, value in choice.f1.items())
    print(f"F1 on dev and, by cross-fitting, on train ({choice.texts} texts): {scores}; ", end="")
    print(f"serving '{choice.way}' where the LLM has answered. Wrote {args.out}")
    return 0


def _domain(args: argparse.Namespace) -> str:
    name: str = args.domain or args.data.resolve().name
    if not DOMAIN_NAME.fullmatch(name):
        raise DataError(
            f"'{name}' is no domain name; give one with --domain: letters, digits, _ . -", source=str(args.data)
        )
    return name


def _model(
    args: argparse.Namespace,
    domain: str,
    data: TrainingData,
    encoder: FrozenEncoder,
    head: Head,
    shape: HeadShape,
    choice: Choice,
    examples: tuple[Sequence[Example], Sequence[Example]],
) -> Model:
    train, dev = (_references(head, part, encoder.window, args.seed) for part in examples)
    return Model(
        domain=domain,
        labels=data.labels,
        encoder_name=encoder.encoder.name,
        encoder_fingerprint=encoder.encoder.fingerprint,
        window=encoder.window,
        head=shape,
        weights={name: value.numpy() for name, value in head.state_dict().items()},
        way=choice.way,
        temperatures=Temperatures(choice.local_temperature, choice.fused_temperature),
        prompt=data.prompt,
        dev_references=dev,
        train_references=train,
    )


def _references(head: Head, examples: Sequence[Example], window: int, seed: int) -> list[Reference]:
    fitting = [example for example in examples if 0 < len(example.tokens) <= window]
    order = np.random.default_rng(seed).permutation(len(fitting))[:REFERENCES]
    chosen = [fitting[index] for index in order]
    scores = emissions(head, chosen)
    return [
        Reference(np.array(example.tokens.ids, dtype=np.int64), example.votes, example.tags, emitted)
        for example, emitted in zip(chosen, scores, strict=True)
    ]


class _Report:
    """A progress bar over epochs with the latest loss."""

    def __init__(self) -> None:
        columns = (TextColumn("training"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._bar = Bar(*columns)
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> _Report:
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        figures = f"epoch {progress.epoch} of {progress.epochs}  loss {progress.loss:.2f}"
        self._bar.update(self._task, total=progress.epochs, completed=progress.epoch, description=figures)
