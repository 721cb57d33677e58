"""The `smallm` command line. Expected failures are one line on stderr and exit status 1."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from smallm import __version__
from smallm.commands import COMMANDS, load_command
from smallm.errors import SmallmError


def main(argv: Sequence[str] | None = None) -> int:
    """Run `smallm ARGV`; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="smallm", description="Chinese NER from a small encoder and an LLM.")
    parser.add_argument("--version", action="version", version=f"smallm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        for name, command in COMMANDS.items():
            sub = commands.add_parser(name, help=command.help, description=command.help)
            if name == chosen:  # the only one whose module has to be imported
                module = load_command(name)
                module.add_arguments(sub)
        return module.run(parser.parse_args(arguments)) if chosen in COMMANDS else _help(parser, arguments)
    except SmallmError as error:
        print(f"smallm: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `smallm recognize ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("smallm: interrupted; nothing half-written was left", file=sys.stderr)
        return 130


def export_onnx() -> int:
    """`export-onnx` as a command of its own."""
    return main(["export-onnx", *sys.argv[1:]])


def _help(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    parser.parse_args(arguments)
    return 2


if __name__ == "__main__":
    sys.exit(main())
