"""`smallm adapt`: a domain's labels into the encoder itself; an encoder folder that `smallm train` then freezes."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from smallm.encoder import EMBEDDED, resolve
from smallm.errors import DataError
from smallm_train.adapt import folder
from smallm_train.adapt.network import AdaptOptions, Method, encoded, optimizer, tagger
from smallm_train.data import read_training_data
from smallm_train.features import FrozenEncoder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    defaults = AdaptOptions()
    parser.add_argument("data", type=Path, help="folder with train and dev files (.jsonl or .conll)")
    parser.add_argument("--out", type=Path, required=True, help="encoder folder to write")
    parser.add_argument("--encoder", default=EMBEDDED, help="'embedded' (default), a folder, or a Hugging Face name")
    parser.add_argument(
        "--method",
        type=Method,
        choices=list(Method),
        metavar="{" + ",".join(Method) + "}",
        default=defaults.method,
        help="which weights learn (default: %(default)s)",
    )
    parser.add_argument("--rank", type=int, default=defaults.rank, help="LoRA's")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="learning rate inside the encoder (default: the method's)"
    )
    parser.add_argument("--shots", type=int, help="use only this many training texts (nested subsets)")
    parser.add_argument(
        "--epochs", type=int, default=defaults.max_epochs, help="passes over the training texts at most"
    )
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    data = read_training_data(args.data, None, args.shots, args.seed)
    if not data.dev.documents:
        raise DataError("an encoder is adapted for as long as that helps on dev, which is empty", source=str(args.data))
    encoder = FrozenEncoder(resolve(args.encoder))
    options = AdaptOptions(args.method, args.rank, args.rate, max_epochs=args.epochs)
    torch.manual_seed(args.seed)
    model = tagger(encoder, data.labels, options)
    print(
        f"{len(data.train.documents)} train texts, {len(data.dev.documents)} dev texts; "
        f"{args.method} trains {model.num_parameters():,} parameters"
    )
    train, dev = (encoded(split.documents, encoder, data.labels) for split in (data.train, data.dev))
    figures = model.fit(train, dev, optimizer(model, options), options, args.seed)
    folder.write(args.out, model, encoder, options, [document.text for document in data.train.documents], figures)
    print(f"F1 on dev {100 * figures['dev_f1']:.1f} after {figures['epoch']} epochs. Wrote {args.out}")
    print(f"Next: smallm train {args.data} --encoder {args.out} ...")
    return 0
