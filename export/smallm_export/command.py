"""`smallm export-onnx` (also `export-onnx`): one or more model folders to a bundle."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from smallm import atomic, bundle, model_folder
from smallm.bundle import VARIANTS, EncoderInfo, Manifest, Variant
from smallm.encoder import resolve
from smallm.errors import ArtifactError
from smallm.model_folder import Model
from smallm.tokenization import TextTokenizer
from smallm_export.encoder_graph import export_encoder
from smallm_export.gate import FLIPS, Figures
from smallm_export.report import print_domain, print_gates
from smallm_export.search import smallest
from smallm_export.texts import by_domain, calibration
from smallm_export.variants import EMBEDDINGS, Encoders
from smallm_export.work import Work

TOOLS = ("onnx", "onnxruntime", "optimum", "optimum-onnx", "torch", "transformers")
Written = tuple[dict[str, Any], dict[str, Figures]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL_DIR", help="model folders that share an encoder")
    parser.add_argument("--out", type=Path, required=True, help="bundle folder to write")
    parser.add_argument(
        "--variants", type=_variants, default=["int8"], metavar=",".join(VARIANTS), help="precisions (default int8)"
    )
    parser.add_argument("--encoder", default="", help="where the encoder lies now, if it was moved")
    add_gate_arguments(parser)
    parser.add_argument(
        "--exclude",
        nargs="+",
        default=[],
        metavar="PART",
        help="MatMuls of the encoder that int8 leaves alone, by name",
    )
    parser.add_argument("--search-exclude", action="store_true", help="find a small set to exclude if int8 fails")


def add_gate_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the gates are told."""
    parser.add_argument(
        "--dev",
        action="append",
        default=[],
        metavar="[DOMAIN=]FILE",
        help="annotated texts for the gates (default: the texts in the model folder, for the tags that differ only)",
    )
    parser.add_argument(
        "--answers", action="append", default=[], metavar="[DOMAIN=]FILE", help="recorded LLM answers to them"
    )
    parser.add_argument("--no-gate", action="store_true", help="write what fails as well; the manifest will say so")
    parser.add_argument(
        "--target-cpu",
        choices=("any", "vnni"),
        default="any",
        help="vnni: int8 weights of 8 bits, for CPUs with VNNI instructions only; any: of 7 (default)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    models = [model_folder.read(path) for path in args.models]
    check_together(args.models, models)
    first = models[0]
    tokenizer = TextTokenizer.load(args.models[0])
    console = Console()
    with atomic.new_directory(args.out) as folder, atomic.scratch() as scratch:
        work = start(models, tokenizer, scratch, folder, args, console)
        variants = {}
        for name in args.variants:
            with console.status(f"making {name} graphs and measuring them"):
                variants[name] = _gated(name, work, models, args, console)
        work.write_canaries(models, list(variants))
        shutil.copy2(args.models[0] / "tokenizer.json", folder / bundle.TOKENIZER)
        layers, hidden = first.head.layers, first.head.hidden
        info = EncoderInfo(first.encoder_name, first.encoder_fingerprint, first.window, layers, hidden)
        bundle.seal(folder, Manifest(variants, info, work.domains, {tool: version(tool) for tool in TOOLS}))
    sizes = ", ".join(f"{name} {one.bytes / 1e6:.1f} MB" for name, one in variants.items())
    print(f"wrote {args.out}: {sizes}; {bundle.size(args.out) / 1e6:.1f} MB in all")
    for name, domain in work.domains.items():
        print_domain(name, domain)
    return 0


def start(
    models: Sequence[Model],
    tokenizer: TextTokenizer,
    scratch: Path,
    folder: Path,
    args: argparse.Namespace,
    console: Console,
) -> Work:
    """The fp32 graphs of `models` in `scratch`, compared with PyTorch. Raises ArtifactError, DataError."""
    encoder = resolve(args.encoder or models[0].encoder_name)
    if encoder.fingerprint != models[0].encoder_fingerprint:
        raise ArtifactError(f"{encoder.folder} is not the encoder that the model was trained with; see --encoder")
    dev = by_domain(models, tokenizer, args.dev, args.answers)
    plain = scratch / "encoder.onnx"
    with console.status("exporting the encoder through optimum, and the heads"):
        export_encoder(encoder.folder, models[0].head.layers, plain)
        feeds = [tokenizer.encoder_inputs([one.ids.tolist()]) for model in models for one in calibration(model)]
        encoders = Encoders(plain, encoder.folder / "config.json", feeds, args.target_cpu == "any")
        work = Work(scratch, folder, tokenizer, encoders, dev)
        for model in models:
            work.write_domain(model)
    return work


def check_together(paths: Sequence[Path], models: Sequence[Model]) -> None:
    """Raise ArtifactError unless the models share an encoder, its layers, and no domain's name."""
    for path, model in zip(paths, models, strict=True):
        if model.encoder_fingerprint != models[0].encoder_fingerprint:
            raise ArtifactError(f"{path}: another encoder than {paths[0]}; a bundle has one encoder")
        if model.head.layers != models[0].head.layers:
            raise ArtifactError(f"{path}: reads other layers of the encoder than {paths[0]}; train it again")
        if not model.dev_references and not model.train_references:
            raise ArtifactError(f"{path}: no reference texts to measure parity on; train it again")
    names = [model.domain for model in models]
    if len(set(names)) < len(names):
        raise ArtifactError(f"two models name the same domain: {', '.join(names)}; train one again with --domain")


def admit(name: str, work: Work, written: Written, no_gate: bool, hint: str) -> Variant:
    """Enter a variant's figures into its domains. Raises ArtifactError if it fails and must not."""
    made, figures = written
    failures = failing(figures)
    if failures and not no_gate:
        raise ArtifactError(f"{name}: " + "; ".join(failures) + hint)
    for domain, one in figures.items():
        work.domains[domain].gates[name] = one.to_json()
    return work.variant(name, made, not failures)


def failing(figures: dict[str, Figures]) -> list[str]:
    """What is out of bounds, by domain."""
    return [f"domain '{domain}': {failure}" for domain, one in figures.items() for failure in one.failures()]


def _gated(name: str, work: Work, models: Sequence[Model], args: argparse.Namespace, console: Console) -> Variant:
    excluded = work.encoders.excluded(args.exclude) if name == "int8" else []
    written = work.write_variant(name, models, excluded)
    print_gates(console, name, written[1])
    hint = ""
    if name == "int8" and failing(written[1]) and (args.search_exclude or not args.no_gate):
        ranked = work.encoders.ranked(work.folder / bundle.encoder_file(name), excluded)
        if args.search_exclude:

            def attempt(nodes: Sequence[str]) -> Written:
                return work.write_variant(name, models, [*excluded, *nodes])

            def search() -> tuple[list[str], Written]:
                return smallest(ranked, attempt, lambda one: not failing(one[1]))

            found, written = search()
            if failing(written[1]) and EMBEDDINGS not in excluded:  # it is not, or not only, the MatMuls
                excluded = [EMBEDDINGS, *excluded]
                found, written = search()
            left = [*excluded, *found]
            console.print(
                f"int8 leaves {len(left)} part{'s' * (len(left) > 1)} alone: --exclude {' '.join(left)}", soft_wrap=True
            )
            print_gates(console, name, written[1])
        worst = " ".join(ranked[:2])
        offer = "" if args.search_exclude else f"; --search-exclude finds a set that passes ({100 * FLIPS} % of tags)"
        hint = f". Leaving these alone helps most: --exclude {worst}{offer}"
        hint += "; --variants fp32 loses nothing; --no-gate accepts it"
    return admit(name, work, written, args.no_gate, hint)


def _variants(value: str) -> list[str]:
    names = list(dict.fromkeys(value.split(",")))
    unknown = [name for name in names if name not in VARIANTS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"'{', '.join(unknown)}' is none of {', '.join(VARIANTS)}")
    return names
