"""`smallm export-onnx` (also `export-onnx`): one or more model folders to a bundle."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from smallm import atomic, bundle, model_folder
from smallm.bundle import Domain, EncoderInfo, Manifest
from smallm.encoder import resolve
from smallm.errors import ArtifactError
from smallm.model_folder import Model, Reference
from smallm.tokenization import TextTokenizer
from smallm_export.encoder_graph import export_encoder
from smallm_export.graph import QUANTIZED
from smallm_export.head_graph import export_head
from smallm_export.parity import Graphs, head_inputs, measure
from smallm_export.quantize import quantize

TOOLS = ("onnx", "onnxruntime", "optimum", "optimum-onnx", "torch", "transformers")
MAX_DIFFERENCE = 0.05  # fp32 against PyTorch, in emissions; the cached features alone are rounded to fp16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL_DIR", help="model folders that share an encoder")
    parser.add_argument("--out", type=Path, required=True, help="bundle folder to write")
    parser.add_argument("--quantize", choices=("none", "int8"), default="int8")
    parser.add_argument("--encoder", default="", help="where the encoder lies now, if it was moved")
    parser.add_argument(
        "--max-f1-drop", type=float, default=0.02, help="refuse a bundle that loses more dev F1 (default 0.02)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    models = [model_folder.read(path) for path in args.models]
    _check_together(args.models, models)
    encoder = resolve(args.encoder or models[0].encoder_name)
    if encoder.fingerprint != models[0].encoder_fingerprint:
        raise ArtifactError(
            f"{encoder.folder} is not the encoder that {args.models[0]} was trained with; see --encoder"
        )
    tokenizer = TextTokenizer.load(args.models[0])
    console = Console()
    with atomic.new_directory(args.out) as folder, atomic.scratch() as scratch:
        with console.status("exporting the encoder through optimum"):
            export_encoder(encoder.folder, models[0].head.layers, scratch / "encoder.onnx")
        work = _Work(scratch, folder, tokenizer, args.quantize == "int8")
        with console.status(f"writing {args.quantize} graphs and measuring parity"):
            work.write_encoder([reference for model in models for reference in calibration(model)])
            domains = {model.domain: work.write_domain(model) for model in models}
        for name, domain in domains.items():
            _gate(name, domain.parity, args.max_f1_drop)
        shutil.copy2(args.models[0] / "tokenizer.json", folder / bundle.TOKENIZER)
        first = models[0]
        info = EncoderInfo(first.encoder_name, encoder.fingerprint, first.window, first.head.layers, first.head.hidden)
        bundle.seal(folder, Manifest(args.quantize, info, domains, {tool: version(tool) for tool in TOOLS}))
    print(f"wrote {args.out}: {bundle.size(args.out) / 1e6:.1f} MB, {args.quantize}")
    for name, domain in domains.items():
        _print(name, domain.parity)
    return 0


def calibration(model: Model) -> list[Reference]:
    """The training texts a model carries for calibration (its dev texts if it has none that fit)."""
    return model.train_references or model.dev_references


@dataclass(frozen=True)
class _Work:
    """Where graphs are made: fp32 in `scratch`, what ships in `folder`."""

    scratch: Path
    folder: Path
    tokenizer: TextTokenizer
    int8: bool

    def write_encoder(self, references: Sequence[Reference]) -> None:
        exact, final = self.scratch / "encoder.onnx", self.folder / bundle.ENCODER
        if self.int8:
            quantize(
                exact, final, (self.tokenizer.encoder_inputs([reference.ids.tolist()]) for reference in references)
            )
        else:
            shutil.copy2(exact, final)

    def write_domain(self, model: Model) -> Domain:
        exact, final = self.scratch / f"{model.domain}.onnx", self.folder / bundle.head_file(model.domain)
        final.parent.mkdir(parents=True)
        export_head(model, exact)
        exact_graphs = Graphs.load(self.scratch / "encoder.onnx", exact, self.tokenizer)
        if self.int8:
            quantize(exact, final, self._head_feeds(model, exact_graphs), QUANTIZED)
        else:
            shutil.copy2(exact, final)
        if model.prompt is not None:
            atomic.write_json(self.folder / bundle.prompt_file(model.domain), model.prompt.to_json())
        domain = Domain(
            list(model.labels.types),
            model.weights["transitions"].mean(0).tolist(),
            str(model.way),
            asdict(model.temperatures),
            model.training,
        )
        texts = model.dev_references or model.train_references
        final_graphs = Graphs.load(self.folder / bundle.ENCODER, final, self.tokenizer)
        domain.parity.update(measure(exact_graphs, final_graphs, texts, domain.decoder()))
        return domain

    def _head_feeds(self, model: Model, graphs: Graphs) -> list[dict[str, Any]]:
        """With the votes and without, as it will be served."""
        feeds: list[dict[str, Any]] = []
        for reference in calibration(model):
            features = graphs.features([reference])[0]
            feeds += [head_inputs(features, votes) for votes in (reference.votes, 0 * reference.votes)]
        return feeds


def _check_together(paths: Sequence[Path], models: Sequence[Model]) -> None:
    for path, model in zip(paths, models, strict=True):
        if model.encoder_fingerprint != models[0].encoder_fingerprint:
            raise ArtifactError(f"{path}: another encoder than {paths[0]}; a bundle has one encoder")
        if not model.dev_references and not model.train_references:
            raise ArtifactError(f"{path}: no reference texts to measure parity on; train it again")
    names = [model.domain for model in models]
    if len(set(names)) < len(names):
        raise ArtifactError(f"two models name the same domain: {', '.join(names)}; train one again with --domain")


def _gate(name: str, parity: dict[str, Any], max_f1_drop: float) -> None:
    if parity["max_difference"] > MAX_DIFFERENCE:
        raise ArtifactError(
            f"domain '{name}': the ONNX graphs differ from PyTorch by {parity['max_difference']} in emissions"
        )
    drop = parity["f1"]["pytorch"] - parity["f1"]["final"]
    if drop > max_f1_drop:
        raise ArtifactError(
            f"domain '{name}': export loses {drop:.3f} of dev F1, more than {max_f1_drop}; "
            "use --quantize none, or accept it with --max-f1-drop"
        )


def _print(name: str, parity: dict[str, Any]) -> None:
    f1 = ", ".join(f"{kind} {100 * value:.1f}" for kind, value in parity["f1"].items())
    agreement = f"{100 * parity['tag_agreement']:.2f} % of tags as in PyTorch"
    print(
        f"{name}: on {parity['texts']} reference texts, F1 {f1}; {agreement}; "
        f"{parity['batch_flips']} tags change in a shared batch; fp32 graphs within {parity['max_difference']:.4f}"
    )
