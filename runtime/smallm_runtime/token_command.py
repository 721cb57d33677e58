"""`smallm token`: who may call a server."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from smallm.errors import DataError
from smallm_runtime import tokens
from smallm_runtime.tokens import Scope


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True)
    new = actions.add_parser("new", help="make a token: shown once, its hash added to a file")
    new.add_argument("name", help="whose it is, for the log and for revoking")
    new.add_argument("--scope", choices=list(Scope), action="append", metavar="{recognise,admin}", required=True)
    new.add_argument(
        "--expires", type=datetime.fromisoformat, metavar="YYYY-MM-DD", help="not good from that day on (UTC)"
    )
    revoke = actions.add_parser("revoke", help="take a token's hash out of a file")
    revoke.add_argument("name")
    listing = actions.add_parser("list", help="names, scopes and ends of a file's tokens")
    for action in (new, revoke, listing):
        action.add_argument("--file", type=Path, required=True, help="the server's auth.tokens")


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status. A running server follows within a second."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {"new": _new, "revoke": _revoke, "list": _list}
    return actions[args.action](args)


def _new(args: argparse.Namespace) -> int:
    known = tokens.read(args.file) if args.file.exists() else ()
    if args.name in {token.name for token in known}:
        raise DataError(f"has a token '{args.name}' already; revoke it or take another name", source=str(args.file))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}", args.name):
        raise DataError("a token's name has letters, digits and . _ @ - only, at most 64")
    secret, token = tokens.new(args.name, list(dict.fromkeys(args.scope)), args.expires)
    tokens.write(args.file, [*known, token])
    print(secret)
    return 0


def _revoke(args: argparse.Namespace) -> int:
    known = tokens.read(args.file)
    kept = [token for token in known if token.name != args.name]
    if len(kept) == len(known):
        raise DataError(f"no token '{args.name}'", source=str(args.file))
    tokens.write(args.file, kept)
    print(f"{args.name} is revoked; {len(kept)} tokens are left")
    return 0


def _list(args: argparse.Namespace) -> int:
    now = datetime.now(UTC)
    for token in tokens.read(args.file):
        end = f"{'expired' if token.expired(now) else 'until'} {token.expires:%Y-%m-%d %H:%M}" if token.expires else ""
        print(f"{token.name}  {','.join(token.scopes)}  {end}".rstrip())
    return 0
