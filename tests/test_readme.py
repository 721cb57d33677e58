"""What the README shows is true: its data line parses, its commands and options exist, its files are there."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from smallm.commands import COMMANDS, load_command
from smallm.formats import jsonl

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def test_the_data_line_parses() -> None:
    (line,) = [block for kind, block in BLOCKS if kind == "json"]
    (document,) = jsonl.parse([line.strip()], "README.md")
    assert len(document.spans) == 2


@pytest.mark.parametrize(
    "line",
    [
        line.split("#")[0].strip()
        for kind, block in BLOCKS
        if kind == "console"
        for line in block.splitlines()
        if re.match(r"(\.venv/bin/)?smallm ", line)
    ],
)
def test_commands_and_their_options_exist(line: str) -> None:
    _, name, *rest = re.split(r"\s+", line.split(">")[0].strip())
    parser = argparse.ArgumentParser()
    load_command(name).add_arguments(parser)
    options = {option: "x" for option in rest if option.startswith("--")}
    known = {option for action in parser._actions for option in action.option_strings}
    for action in parser._actions:
        for sub in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
            known |= {option for inner in sub._actions for option in inner.option_strings}
    assert name in COMMANDS and set(options) <= known


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make (\w+)", README):
        assert f"\n{target}:" in makefile
