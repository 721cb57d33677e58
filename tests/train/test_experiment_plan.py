"""An experiment file is checked before anything is trained; mistakes are named with file and field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from smallm.cli import main
from smallm.errors import DataError
from smallm_train.experiment.plan import read_plan
from tests.conftest import EXAMPLES

GOOD = 'out = "o"\nsystems = ["local"]\nsizes = [0, "all"]\n[[datasets]]\nname = "d"\ndata = "d"\n'


def plan_file(folder: Path, text: str) -> Path:
    file = folder / "e.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_paths_are_relative_to_the_file_and_overrides_are_not(tmp_path: Path) -> None:
    plan = read_plan(plan_file(tmp_path, GOOD), {"out": Path("elsewhere")})
    assert (plan.name, plan.datasets[0].data, plan.out) == ("e", tmp_path / "d", Path("elsewhere"))
    assert plan.sizes == (0, "all") and plan.datasets[0].folds is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("out = ", "e.toml: not valid TOML"),
        (GOOD.replace('"d"\ndata', '"d"\nfolds = 1\ndata'), r"field 'datasets\[0\].folds': .*equal to 2"),
        (GOOD.replace('out = "o"\n', ""), "field 'out': field required"),
        (GOOD.replace('"all"', '"most"'), r"field 'sizes\[1\]"),
        (GOOD.replace('"all"', "-1"), r"field 'sizes\[1\]"),
        (GOOD.replace('"all"', "0"), "'sizes' repeats a value"),
        ("seedz = [1]\n" + GOOD, "field 'seedz': unknown field"),
        (GOOD + "[options.ours]\nwidth = 3\n", "'options' has ours, which 'systems' lacks"),
        (GOOD.replace('["local"]', '["lokal"]'), "field 'systems': unknown system 'lokal'; known: llm, local"),
        (GOOD + "[options.local]\nwidht = 3\n", "field 'options.local.widht': unknown option; known: .*width"),
        (GOOD + '[options.local]\nwidth = "x"\n', "field 'options.local.width': input should be a valid integer"),
        (GOOD.replace('data = "d"\n', ""), "field 'datasets.d': no 'data' here"),
        (GOOD, "d: no train file"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_field(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["experiment", str(plan_file(tmp_path, text))]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "o").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none.toml: no such experiment file"):
        read_plan(tmp_path / "none.toml")


@pytest.mark.parametrize("file", [EXAMPLES / "experiment.toml", EXAMPLES.parent.parent / "benchmarks" / "paper.toml"])
def test_the_shipped_files_are_valid(file: Path) -> None:
    from smallm_train.experiment.systems import options_of, system_of

    plan = read_plan(file)
    for name in plan.systems:
        system_of(name)
        options_of(name, plan.options.get(name, {}))
