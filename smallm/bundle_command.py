"""`smallm bundle`: a bundle on disk, from key to signature."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from smallm import bundle, signing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True)
    keygen = actions.add_parser("keygen", help="a pair of Ed25519 keys to sign with: KEY (keep it) and KEY.pub")
    keygen.add_argument("key", type=Path, metavar="KEY")
    sign = actions.add_parser("sign", help="check a bundle and sign it")
    sign.add_argument("bundle", type=Path)
    sign.add_argument("--key", type=Path, required=True, help="private key from keygen")
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
    actions: dict[str, Callable[[argparse.Namespace], int]] = {"keygen": _keygen, "sign": _sign, "verify": _verify}
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
