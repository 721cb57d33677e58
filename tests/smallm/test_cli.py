from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from smallm import __version__
from smallm.cli import main
from smallm.commands import COMMANDS


@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [("train", "torch", "train"), ("serve", "onnxruntime", "cpu"), ("export-onnx", "optimum.exporters.onnx", "export")],
)
def test_a_command_without_its_extra_says_what_to_install(command: str, missing: str, extra: str) -> None:
    parts = missing.split(".")
    blocked = "; ".join(f"sys.modules['{'.'.join(parts[: end + 1])}'] = None" for end in range(len(parts)))
    code = f"import sys; {blocked}; from smallm.cli import main; sys.exit(main(['{command}', '--help']))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stdout == ""
    assert f"pip install 'smallm[{extra}]'" in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0 and COMMANDS[command].help in " ".join(capsys.readouterr().out.split())


def test_an_expected_failure_is_one_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path), "--out", str(tmp_path / "model")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("smallm: ") and error.count("\n") == 1 and str(tmp_path) in error
    assert not (tmp_path / "model").exists()


def test_version_and_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert __version__ in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["tarin"])
    assert ended.value.code == 2 and "tarin" in capsys.readouterr().err
