"""`smallm bundle add-head`: one more domain for a bundle, on the encoder it has."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from smallm import atomic, bundle, model_folder
from smallm.bundle import Manifest
from smallm.errors import ArtifactError
from smallm.model_folder import Model
from smallm.tokenization import TextTokenizer
from smallm_export.command import admit, check_together, start
from smallm_export.report import print_domain, print_gates


def run(args: argparse.Namespace) -> int:
    """Write the bundle with the model folder's head added, in one step; the exit status."""
    manifest, model = bundle.read(args.bundle), model_folder.read(args.model)
    _check(args.bundle, manifest, args.model, model)
    out, console = args.out or args.bundle, Console()
    with atomic.new_directory(out) as folder, atomic.scratch() as scratch:
        for name in manifest.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(args.bundle / name, folder / name)
        int8 = manifest.variants.get("int8")
        args.target_cpu = "vnni" if int8 is not None and int8.cpu else "any"
        work = start([model], TextTokenizer.load(args.bundle), scratch, folder, args, console)
        work.domains.update({name: one for name, one in manifest.domains.items() if name != model.domain})
        variants = {}
        for name, variant in manifest.variants.items():
            with console.status(f"making and measuring the {name} head"):
                work.write_head(name, model)
                figures = {model.domain: work.compare(name, model)}
            print_gates(console, name, figures)
            admitted = admit(name, work, (variant.made, figures), args.no_gate, "; --no-gate accepts it")
            variants[name] = replace(admitted, gated=admitted.gated and variant.gated, cpu=variant.cpu)
        work.write_canaries([model], list(variants))
        added = {**manifest.domains, model.domain: work.domains[model.domain]}
        bundle.seal(folder, replace(manifest, variants=variants, domains=added))
    print(f"wrote {out}: {bundle.size(out) / 1e6:.1f} MB, domains {', '.join(added)}; sign it again if it was signed")
    print_domain(model.domain, added[model.domain])
    return 0


def _check(path: Path, manifest: Manifest, model_path: Path, model: Model) -> None:
    check_together([model_path], [model])
    info = manifest.encoder
    if model.encoder_fingerprint != info.fingerprint:
        raise ArtifactError(
            f"{model_path}: trained on another encoder than {path} has ('{info.name}'); export it apart"
        )
    if (model.head.layers, model.window) != (info.layers, info.window):
        raise ArtifactError(
            f"{model_path}: reads other layers or windows of the encoder than {path} gives; export it apart"
        )
    if model.domain in manifest.domains:
        raise ArtifactError(f"{path}: has a domain '{model.domain}' already; train with another --domain")
