"""`smallm pretrain` on a corpus of a few hundred lines: it writes an encoder that the rest can use, and resumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from smallm.cli import main
from smallm.encoder import resolve
from smallm.formats import read_documents
from smallm_train.features import FrozenEncoder
from tests.conftest import EXAMPLES

SIZE = ["--layers", "1", "--hidden", "32", "--heads", "2", "--min-count", "1", "--save-every", "4"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    texts = [
        document.text for name in ("train", "dev", "test") for document in read_documents(EXAMPLES / f"{name}.jsonl")
    ]
    (folder / "orders.txt").write_text("\n".join(texts * 4) + "\n", encoding="utf-8")
    return folder


def pretrain(corpus: Path, out: Path, tokens: int) -> dict[str, object]:
    silver = ["--silver", str(EXAMPLES / "train.jsonl"), str(EXAMPLES / "dev.jsonl")]
    assert main(["pretrain", str(corpus), "--out", str(out), "--tokens", str(tokens), *silver, *SIZE]) == 0
    card: dict[str, object] = json.loads((out / "pretraining.json").read_text())
    return card


def test_the_written_folder_is_an_encoder_and_a_second_run_goes_on(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoder"
    first = pretrain(corpus, out, 30_000)
    encoder = FrozenEncoder(resolve(str(out)))
    (features,) = encoder.features(encoder.tokenizer.encode_batch(["3号泵漏油"]))
    assert features.shape == (5, 2, 32)
    longer = pretrain(corpus, out, 60_000)
    assert longer["steps"] > first["steps"] and longer["tokens_seen"] >= 60_000  # type: ignore[operator]
    begun_anew = tmp_path / "again"
    shutil.rmtree(tmp_path / "encoder.work")
    assert pretrain(corpus, begun_anew, 60_000)["tokens_seen"] == longer["tokens_seen"]


def test_every_kind_of_silver_data_is_a_task_with_scores_of_its_own(corpus: Path, tmp_path: Path) -> None:
    held_out = pretrain(corpus, tmp_path / "encoder", 9_000)["held_out"]
    assert {"train_span_f1", "dev_span_f1"} <= set(held_out)  # type: ignore[call-overload]
    twice = ["--silver", str(EXAMPLES / "train.jsonl"), str(EXAMPLES.parent / "work_orders" / "train.jsonl")]
    arguments = ["pretrain", str(corpus), "--out", str(tmp_path / "other"), *twice, *SIZE]
    assert main(arguments) == 1 and not (tmp_path / "other").exists()
