"""docs/bridge.md is true: its file is read, its values are the defaults, its reasons and commands are all there are."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from smallm.llm import command
from smallm.llm.reasons import Reason
from smallm.llm.settings import BridgeSettings, Mode, load

TEXT = (Path(__file__).parents[2] / "docs" / "bridge.md").read_text(encoding="utf-8")


def test_the_configuration_shown_is_the_default(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```toml\n(.*?)```", TEXT, flags=re.DOTALL)
    file = tmp_path / "llm.toml"
    file.write_text(shown, encoding="utf-8")
    endpoint = {"url": "http://llm.local/v1", "model": "qwen"}
    told = {"store": str(tmp_path / "answers.sqlite"), "endpoint": [endpoint]}
    assert load(file) == BridgeSettings.model_validate(told)


def test_every_reason_and_mode_is_explained_and_every_command_exists() -> None:
    for name in (*Reason, *Mode):
        assert f"`{name}`" in TEXT
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    for line in re.findall(r"^smallm llm (.*)$", TEXT, flags=re.MULTILINE):
        parser.parse_args(line.split())
