"""`smallm train` and `evaluate` as a user runs them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smallm import model_folder as folders
from smallm.cli import main
from smallm.documents import Document, Span
from smallm.formats import read_documents, write_documents
from smallm.fusion import Way
from smallm.scoring import score
from tests.conftest import SampleDomain

QUICK = ["--epochs", "2", "--min-steps", "1"]


def test_evaluate_prints_the_three_ways_as_json(
    model_folder: Path, sample: SampleDomain, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(model_folder), str(sample.folder / "test.jsonl"), "--json"]
    assert main([*arguments, "--answers", str(sample.answers)]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert list(scores) == ["llm", "local", "fused", "calibration", "asking"]
    first, *_, last = scores["asking"]
    assert (first["share"], last["share"]) == (0, 1) and first["f1"] == scores["local"]["f1"]
    thresholds = [point["threshold"] for point in scores["asking"]]
    assert thresholds == sorted(thresholds) and 0 < thresholds[0] < thresholds[-1] == 1
    assert last["f1"] == scores[str(folders.read(model_folder).way)]["f1"]
    assert set(scores["fused"]) == {"precision", "recall", "f1", "per_type"}
    gold = [document.spans for document in sample.test]
    assert scores["llm"] == score(gold, [answer or [] for answer in sample.test_answers])
    assert main(arguments) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["local", "calibration"]


def test_the_same_seed_gives_the_same_weights(sample: SampleDomain, tmp_path: Path) -> None:
    options = ["--answers", str(sample.answers), "--shots", "40", "--seed", "5", *QUICK]
    for name in ("one", "two"):
        assert main(["train", str(sample.folder), "--out", str(tmp_path / name), *options]) == 0
    weights = [(tmp_path / name / "head.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("extra", [[], ["--head", "paper"]])
def test_a_hugging_face_encoder_without_answers_trains_exports_and_evaluates(
    sample: SampleDomain, tiny_encoder: Path, tmp_path: Path, extra: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    model, bundle = tmp_path / "model", tmp_path / "bundle"
    options = ["--encoder", str(tiny_encoder), "--shots", "20", "--domain", "d", *QUICK, *extra]
    assert main(["train", str(sample.folder), "--out", str(model), *options]) == 0
    assert folders.read(model).way is Way.LOCAL
    assert main(["export-onnx", str(model), "--out", str(bundle), "--variants", "fp32"]) == 0
    capsys.readouterr()
    scores = []
    for artefact in (model, bundle):
        assert main(["evaluate", str(artefact), str(sample.folder / "test.jsonl"), "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out)["local"]["f1"])
    assert scores[0] == pytest.approx(scores[1], abs=0.01)


def test_another_encoder_under_the_same_name_is_refused(
    sample: SampleDomain, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    assert (
        main(
            ["train", str(sample.folder), "--out", str(model), "--encoder", str(tiny_encoder), "--shots", "20", *QUICK]
        )
        == 0
    )
    config = tiny_encoder / "config.json"
    config.write_text(config.read_text().replace('"gelu"', '"relu"'))
    assert main(["evaluate", str(model), str(sample.folder / "test.jsonl")]) == 1
    assert "another version of encoder" in capsys.readouterr().err
    shutil.rmtree(tiny_encoder)
    assert main(["export-onnx", str(model), "--out", str(tmp_path / "b")]) == 1
    assert "no such folder" in capsys.readouterr().err and not (tmp_path / "b").exists()


def test_texts_without_a_character_are_no_trouble_and_nothing_else_is_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blank, real = Document("1", "  ", ()), Document("2", "泵漏油", (Span(0, 1, "EQUIP"),))
    write_documents(tmp_path / "dev.jsonl", [blank, real])
    write_documents(tmp_path / "train.jsonl", [blank, real])
    command = ["train", str(tmp_path), "--out", str(tmp_path / "m"), "--domain", "d", *QUICK]
    assert main(command) == 0
    (tmp_path / "prompt.json").write_text('{"types": ["EQUIP"]}')
    (tmp_path / "answers.jsonl").write_text(json.dumps({"text": blank.text, "response": "[]"}))
    write_documents(tmp_path / "train.jsonl", [blank])
    capsys.readouterr()
    assert main([*command, "--answers", str(tmp_path / "answers.jsonl")]) == 1
    assert "no training text holds a character" in capsys.readouterr().err


def test_without_a_single_label_it_is_the_llm(
    sample: SampleDomain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, bundle = tmp_path / "model", tmp_path / "bundle"
    answers = ["--answers", str(sample.answers)]
    assert main(["train", str(sample.folder), *answers, "--out", str(model), "--shots", "0"]) == 0
    assert main(["export-onnx", str(model), "--out", str(bundle)]) == 0
    capsys.readouterr()
    for artefact in (model, bundle):
        assert main(["evaluate", str(artefact), str(sample.folder / "test.jsonl"), *answers, "--json"]) == 0
        scores = json.loads(capsys.readouterr().out)
        assert scores["fused"] == scores["llm"] and scores["local"]["f1"] == 0
    assert main(["train", str(sample.folder), "--out", str(tmp_path / "none"), "--shots", "0"]) == 1
    assert "not between 1 and" in capsys.readouterr().err


def test_unlabelled_texts_teach_the_local_model_where_there_is_no_label(
    sample: SampleDomain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, texts = tmp_path / "model", tmp_path / "texts.txt"
    known = [document.text for document in read_documents(sample.folder / "dev.jsonl")]
    further = [document.text for document in read_documents(sample.folder / "train.jsonl")][:60]
    texts.write_text("\n".join([*known, *further, "没有问过的一句话"]), encoding="utf-8")
    answers = ["--answers", str(sample.answers)]
    arguments = ["train", str(sample.folder), "--out", str(model), "--shots", "0", "--unlabelled", str(texts)]
    assert main([*arguments, *answers, "--epochs", "20", "--min-steps", "1"]) == 0
    used = folders.read(model).training["unlabelled_texts"]
    assert 50 < used <= 60 and f"answers to {used} unlabelled texts" in capsys.readouterr().out
    assert main(["evaluate", str(model), str(sample.folder / "test.jsonl"), *answers, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["local"]["f1"] > 0.2 and scores["fused"]["f1"] >= scores["llm"]["f1"] - 0.02
    assert main([*arguments, "--shots", "5"]) == 1
    assert "give --answers" in capsys.readouterr().err
    texts.write_text("\n".join(known), encoding="utf-8")
    assert main([*arguments, *answers]) == 1
    assert "fit none of its texts beyond train and dev" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("what", ["train", "export-onnx"])
def test_killed_at_any_moment_the_old_output_or_the_new_one_is_there(
    what: str, sample: SampleDomain, model_folder: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    """Kills at moments spread over the run, the last ones around the final rename."""
    out = tmp_path / "out"
    shutil.copytree(model_folder if what == "train" else bundle_folder, out)
    arguments = {
        "train": [
            "train",
            str(sample.folder),
            "--answers",
            str(sample.answers),
            "--shots",
            "24",
            "--seed",
            "9",
            *QUICK,
        ],
        "export-onnx": ["export-onnx", str(model_folder), "--variants", "fp32"],
    }[what]
    command = [sys.executable, "-m", "smallm.cli", *arguments, "--out", str(out)]
    marker = "model.json" if what == "train" else "manifest.json"
    old = (out / marker).read_bytes()
    begin = time.monotonic()
    subprocess.run([*command[:-1], str(tmp_path / "timing")], check=True, capture_output=True)
    whole = time.monotonic() - begin
    for share in (0.5, 0.8, 0.9, 0.97):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(share * whole)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _complete(what, out)
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert (out / marker).read_bytes() != old
    _complete(what, out)


def _complete(what: str, out: Path) -> None:
    from smallm import bundle

    if what == "train":
        folders.read(out)
    else:
        bundle.read(out)
