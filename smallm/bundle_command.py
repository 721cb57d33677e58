"""`smallm bundle`: a bundle on disk, from key to signature."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from smallm import bundle, signing
from smallm.commands import load_function


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True)
    keygen = actions.add_parser("keygen", help="a pair of Ed25519 keys to sign with: KEY (keep it) and KEY.pub")
    keygen.add_argument("key", type=Path, metavar="KEY")
    sign = actions.add_parser("sign", help="check a bundle and sign it")
    sign.add_argument("bundle", type=Path)
    sign.add_argument("--key", type=Path, required=True, help="private key from keygen")
    show = actions.add_parser("show", help="what is in a bundle: variants, domains, figures")
    show.add_argument("bundle", type=Path)
    add = actions.add_parser("add-head", help="one more domain for a bundle, on the encoder it has")
    add.add_argument("bundle", type=Path)
    add.add_argument("model", type=Path, metavar="MODEL_DIR")
    add.add_argument("--out", type=Path, help="bundle folder to write (default: replace the one given)")
    add.add_argument("--encoder", default="", help="where the encoder lies now, if it was moved")
    add.add_argument("--dev", action="append", default=[], metavar="FILE", help="annotated texts for the gates")
    add.add_argument("--answers", action="append", default=[], metavar="FILE", help="recorded LLM answers to them")
    add.add_argument("--no-gate", action="store_true", help="add it even if it fails; the manifest will say so")
    verify = actions.add_parser("verify", help="check every file of a bundle, and its signature")
    verify.add_argument("bundle", type=Path)
    verify.add_argument(
        "--trusted",
        type=Path,
        action="append",
        default=[],
        metavar="KEY.pub",
        help="keys of which one must have signed",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "keygen": _keygen,
        "sign": _sign,
        "verify": _verify,
        "show": _show,
        "add-head": _add_head,
    }
    return actions[args.action](args)


def _keygen(args: argparse.Namespace) -> int:
    public = signing.keygen(args.key)
    print(f"{args.key}: the private key, for `smallm bundle sign`; whoever has it can sign for you")
    print(f"{public}: the public key {signing.key_id(signing.public_key(public))}, for the servers' trusted_keys")
    return 0


def _sign(args: argparse.Namespace) -> int:
    bundle.read(args.bundle)
    name = signing.sign(bundle.manifest_bytes(args.bundle), args.key, args.bundle / bundle.SIGNATURES)
    print(f"{args.bundle}: signed by {name}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    manifest = bundle.read(args.bundle, trusted=args.trusted)
    signed = "; no signature was asked for (--trusted)"
    if args.trusted:
        raw = bundle.manifest_bytes(args.bundle)
        signed = f", signed by {signing.verify(raw, args.bundle / bundle.SIGNATURES, args.trusted)}"
    print(f"{args.bundle}: {len(manifest.files)} files as in the manifest{signed}")
    return 0


def _add_head(args: argparse.Namespace) -> int:
    return load_function("smallm_export.add_head", "run", "`smallm bundle add-head`", "export")(args)


def _show(args: argparse.Namespace) -> int:
    manifest = bundle.read(args.bundle)
    info = manifest.encoder
    print(f"{args.bundle}: format {manifest.format}, smallm {manifest.smallm}, {bundle.size(args.bundle) / 1e6:.1f} MB")
    print(f"encoder '{info.name}' {info.fingerprint[:12]}, layers {info.layers}, windows of {info.window} tokens")
    for name, variant in manifest.variants.items():
        needs = f", needs {', '.join(variant.cpu)}" if variant.cpu else ""
        made = ", ".join(f"{key} {value}" for key, value in variant.made.items() if value not in ([], None))
        print(f"variant {name}: {variant.bytes / 1e6:.1f} MB{needs}{'' if variant.gated else ', NOT GATED'} ({made})")
    for name, domain in manifest.domains.items():
        print(f"domain '{name}': {', '.join(domain.types)}; answers by {domain.way}; {len(domain.canaries)} canaries")
        for variant_name, gate in domain.gates.items():
            flips = ", ".join(f"{key} {100 * value:.2f} %" for key, value in gate["flips"].items())
            f1 = "".join(f"; {key} F1 {100 * a:.1f} > {100 * b:.1f}" for key, (a, b) in (gate["f1"] or {}).items())
            print(f"  {variant_name} against fp32, {gate['texts']} texts: tags that differ {flips}{f1}")
    return 0
