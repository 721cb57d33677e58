"""`smallm experiment` as a user runs it, on a random encoder and a few texts: its scores mean nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from smallm.cli import main
from smallm.documents import Span
from smallm.formats import read_documents, write_documents
from smallm.scoring import score
from smallm_train.experiment.systems import SYSTEMS
from tests.conftest import SampleDomain

ALL_SYSTEMS = tuple(SYSTEMS)


@pytest.fixture
def data(sample: SampleDomain, tmp_path: Path) -> Path:
    """A few of the sample's work orders, with answers and prompt."""
    folder = tmp_path / "data" / "orders"
    for name, count in (("train", 30), ("dev", 8), ("test", 10)):
        write_documents(folder / f"{name}.jsonl", read_documents(sample.folder / f"{name}.jsonl")[:count])
    for name in ("answers.jsonl", "prompt.json"):
        (folder / name).write_bytes((sample.folder / name).read_bytes())
    return folder


def plan_file(
    data: Path, encoder: Path, systems: tuple[str, ...] = ("llm", "ours"), extra: str = "", epochs: int = 1
) -> Path:
    trained = [name for name in systems if name != "llm"]
    passes = {name: "max_epochs" if name in ("bilstm_crf", "finetune") else "min_steps = 1\nepochs" for name in trained}
    options = "".join(f"[options.{name}]\n{passes[name]} = {epochs}\n" for name in trained)
    file = data.parent.parent / "tiny.toml"
    file.write_text(
        f'out = "out"\nencoder = "{encoder.name}"\nsystems = {json.dumps(systems)}\nsizes = [0, 8, "all"]\n'
        f'seeds = [0, 1]\nresamples = 200\n[[datasets]]\nname = "orders"\ndata = "data/orders"\n'
        f'answers = "data/orders/answers.jsonl"\n{extra}\n{options}',
        encoding="utf-8",
    )
    return file


def cells_of(file: Path) -> dict[str, dict[str, Any]]:
    found = (file.parent / "out" / "cells").rglob("*.json")
    return {path.name: json.loads(path.read_text()) for path in sorted(found) if not path.name.startswith(".")}


def test_every_system_runs_is_reported_and_is_not_run_again(
    data: Path, tiny_encoder: Path, sample: SampleDomain, capsys: pytest.CaptureFixture[str]
) -> None:
    file = plan_file(data, tiny_encoder, ALL_SYSTEMS)
    assert main(["experiment", str(file)]) == 0
    made = cells_of(file)
    assert len(made) == 1 + 7 * 3 * 2
    out = file.parent / "out"
    results = json.loads((out / "results.json").read_text())["datasets"]["orders"]
    curves = {curve: {point["size"]: point for point in points} for curve, points in results["curves"].items()}
    single = {"llm", "local", "bilstm_crf", "finetune"}
    assert set(curves) == single | {
        f"{head}.{way}" for head in ("ours", "unlabelled", "adapted", "paper") for way in ("local", "fused", "served")
    }
    gold = [document.spans for document in sample.test[:10]]
    llm = score(gold, [answer or () for answer in sample.test_answers[:10]])["f1"]
    for curve in ("llm", "ours.fused", "ours.served", "paper.fused"):  # without labels each is the LLM
        assert curves[curve][0]["test"]["value"] == pytest.approx(llm)
    assert curves["local"][0]["test"]["value"] == curves["bilstm_crf"][0]["test"]["value"] == 0
    assert curves["finetune"]["all"]["train_texts"] == 30 and curves["finetune"]["all"]["parameters"] > 10_000
    for one in results["scenarios"].values():
        assert sum(one["shares"].values()) == pytest.approx(100 if one["predictions"] else 0)
    report = (out / "report.md").read_text()
    assert "### Differences on test" in report and "| ours.fused - llm | +0.0 [+0.0, +0.0] p = 1.000" in report
    for suffix, magic in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        assert (out / f"curves-orders.{suffix}").read_bytes().startswith(magic)
    written = {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*.json")}
    capsys.readouterr()
    assert main(["experiment", str(file)]) == 0
    assert "43 cells, 43 finished before" in capsys.readouterr().out
    assert written == {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*.json")}


def test_a_cell_holds_what_a_later_analysis_needs(data: Path, tiny_encoder: Path) -> None:
    file = plan_file(data, tiny_encoder)
    assert main(["experiment", str(file)]) == 0
    test = read_documents(data / "test.jsonl")
    for cell in cells_of(file).values():
        assert cell["test_ids"] == [document.id for document in test] and len(cell["dev_ids"]) == 8
        for curve, both in cell["predictions"].items():
            spans = [[Span(*span) for span in text] for text in both["test"]]
            assert score([document.spans for document in test], spans)["f1"] == cell["test_f1"][curve]
        if cell["settings"]["system"] == "ours":
            chosen = cell["chosen_on_dev"]
            best = max(chosen["f1"].values())
            assert chosen["f1"][chosen["way"]] >= best - chosen["gain_error"]
            assert chosen["texts"] == len(cell["dev_ids"]) + cell["train_texts"]


def test_changed_settings_are_other_cells_and_never_mixed(data: Path, tiny_encoder: Path) -> None:
    results = data.parent.parent / "out" / "results.json"
    first = plan_file(data, tiny_encoder, epochs=1)
    assert main(["experiment", str(first)]) == 0
    old, before = set(cells_of(first)), json.loads(results.read_text())
    assert main(["experiment", str(plan_file(data, tiny_encoder, epochs=3))]) == 0
    new = set(cells_of(first))
    assert old < new and len(new) == len(old) + 6  # of `llm`, nothing changed
    assert json.loads(results.read_text())["finished"] == 7
    assert main(["experiment", str(plan_file(data, tiny_encoder, epochs=1)), "--report-only"]) == 0
    assert json.loads(results.read_text()) == before
    (data / "dev.jsonl").write_bytes(b"".join((data / "dev.jsonl").read_bytes().splitlines(keepends=True)[:6]))
    assert main(["experiment", str(first)]) == 0
    assert len(cells_of(first)) == len(new) + 7  # other data: everything


def test_killed_in_the_middle_it_goes_on_where_it_was(data: Path, tiny_encoder: Path) -> None:
    file = plan_file(data, tiny_encoder, ("llm", "local", "ours"), epochs=6)
    process = subprocess.Popen(
        [sys.executable, "-m", "smallm.cli", "experiment", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while len(list((file.parent / "out").glob("cells/*/[!.]*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = cells_of(file)  # each is whole
    assert 2 <= len(before) < 13
    assert main(["experiment", str(file)]) == 0
    after = cells_of(file)
    assert len(after) == 13
    assert {name: after[name] for name in before} == before
    results = json.loads((file.parent / "out" / "results.json").read_text())
    assert results["finished"] == results["cells"] == 13


def test_several_processes_give_what_one_gives(data: Path, tiny_encoder: Path) -> None:
    file = plan_file(data, tiny_encoder, ("llm", "local"), extra="sizes = [8]")
    assert main(["experiment", str(file)]) == 0
    one = cells_of(file)
    assert main(["experiment", str(file), "--out", str(file.parent / "two"), "--jobs", "2"]) == 0
    for path in (file.parent / "two" / "cells").rglob("*.json"):
        assert json.loads(path.read_text())["predictions"] == one[path.name]["predictions"]
    assert len(list((file.parent / "two" / "cells").rglob("*.json"))) == len(one)


def test_folds_are_pooled_into_one_score_over_every_answered_text(data: Path, tiny_encoder: Path) -> None:
    file = plan_file(data, tiny_encoder, ("llm", "local"), extra="folds = 2\nsizes = [8]")
    assert main(["experiment", str(file)]) == 0
    results = json.loads((file.parent / "out" / "results.json").read_text())["datasets"]["orders"]
    trained = {
        document.text for name in ("train", "dev", "test") for document in read_documents(data / f"{name}.jsonl")
    }
    assert results["texts"] == results["answered"] < len(trained)  # demonstrations are not scored
    assert results["folds"] == 2 and results["curves"]["local"][0]["seeds"] == [0, 1]
    assert len(cells_of(file)) == 2 + 2 * 2


def test_a_damaged_cell_is_named(data: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = plan_file(data, tiny_encoder, ("llm",))
    assert main(["experiment", str(file)]) == 0
    (cell,) = (file.parent / "out").glob("cells/*/*.json")
    cell.write_text(cell.read_text().replace('"test_index"', '"x"'))
    capsys.readouterr()
    assert main(["experiment", str(file)]) == 1
    assert f"{cell}: damaged cell" in capsys.readouterr().err


def test_cells_of_other_training_code_are_named_and_redone_on_request(
    data: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from smallm_train.experiment import cells

    file = plan_file(data, tiny_encoder, ("llm",))
    assert main(["experiment", str(file)]) == 0
    monkeypatch.setattr(cells, "code_fingerprint", lambda: "other")
    capsys.readouterr()
    assert main(["experiment", str(file)]) == 0
    assert "1 of those were made by another version" in capsys.readouterr().out
    assert main(["experiment", str(file), "--redo"]) == 0
    assert [cell["code"] for cell in cells_of(file).values()] == ["other"]


def test_a_dataset_without_answers_runs_what_needs_no_llm(
    data: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = plan_file(data, tiny_encoder, ("llm", "local", "ours"))
    file.write_text(file.read_text().replace('answers = "data/orders/answers.jsonl"\n', ""))
    assert main(["experiment", str(file)]) == 0
    assert "orders: no answers, so nothing that needs the LLM" in capsys.readouterr().out
    assert {(cell["settings"]["system"], cell["settings"]["size"]) for cell in cells_of(file).values()} == {
        ("local", 8),
        ("local", "all"),
    }
