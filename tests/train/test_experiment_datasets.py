"""Who is trained on, chosen on and scored: subsets are nested, folds cover each text once and leak nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smallm.documents import Document, Span
from smallm.errors import DataError
from smallm.formats import write_documents
from smallm_train.experiment.datasets import Dataset, read_dataset
from smallm_train.experiment.plan import DatasetPlan, Plan

DOCUMENTS = [Document(str(index), f"{index}号泵漏油", (Span(0, len(str(index)) + 2, "EQUIP"),)) for index in range(60)]
TWIN = Document("twin", DOCUMENTS[0].text, DOCUMENTS[0].spans)
UNANSWERED = ("7号泵漏油", "41号泵漏油")


def dataset(folder: Path, **settings: object) -> Dataset:
    write_documents(folder / "train.jsonl", DOCUMENTS[:40])
    write_documents(folder / "dev.jsonl", DOCUMENTS[40:50])
    write_documents(folder / "test.jsonl", [*DOCUMENTS[50:], TWIN])
    prompt = {"types": ["EQUIP", "FAULT"], "demonstrations": [{"text": UNANSWERED[0], "answer": []}]}
    (folder / "prompt.json").write_text(json.dumps(prompt))
    lines = [json.dumps({"text": one.text, "response": "[]"}) for one in DOCUMENTS if one.text != UNANSWERED[1]]
    (folder / "answers.jsonl").write_text("\n".join(lines))
    plan = DatasetPlan(name="d", data=folder, answers=folder / "answers.jsonl", **settings)  # type: ignore[arg-type]
    return read_dataset(plan, Plan(name="e", out=folder / "out", datasets=(plan,), systems=("llm",)))


def test_subsets_are_nested_and_keep_their_answers(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    parts = [data.part(size, seed=3).train for size in (0, 1, 10, 30, "all")]
    assert [len(part.documents) for part in parts] == [0, 1, 10, 30, 40]
    for smaller, larger in zip(parts, parts[1:], strict=False):
        assert smaller.documents == larger.documents[: len(smaller.documents)]
        assert smaller.answers == larger.answers[: len(smaller.answers)]
    assert parts[1].documents[0].text == UNANSWERED[0]  # the prompt's demonstration comes first and counts
    assert data.part(10, seed=4).train.documents != parts[2].documents
    assert [one.id for one in data.part(10, seed=3).test.documents] == [*map(str, range(50, 60)), "twin"]


def test_sizes_beyond_the_data_are_left_out_and_all_is_not_run_twice(tmp_path: Path) -> None:
    assert dataset(tmp_path).sizes([0, 10, 40, 80, "all"]) == [0, 10, "all"]
    assert dataset(tmp_path).sizes([0, 10, 40, 80]) == [0, 10, 40]


def test_a_dev_limit_takes_fewer_dev_texts(tmp_path: Path) -> None:
    assert len(dataset(tmp_path, dev_limit=4).part("all", 0).dev.documents) == 4


@pytest.mark.parametrize("seed", [0, 1])
def test_folds_score_each_answered_text_once_and_never_train_on_it(tmp_path: Path, seed: int) -> None:
    data = dataset(tmp_path, folds=5)
    scored = [document.text for document in data.scored.documents]
    assert len(scored) == 59 and not set(scored) & set(UNANSWERED)
    covered = []
    for fold in data.folds():
        part = data.part("all", seed, fold)
        texts = [{document.text for document in split.documents} for split in (part.train, part.dev, part.test)]
        assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])  # the twins share a fold
        assert texts[1] and sum(len(s.documents) for s in (part.train, part.dev, part.test)) == len(scored)
        assert [scored[index] for index in part.test_index] == [document.text for document in part.test.documents]
        covered += part.test_index
    assert sorted(covered) == list(range(len(scored)))
    assert data.part("all", 0, 0).test_index != data.part("all", 1, 0).test_index


def test_too_many_folds_and_other_peoples_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="40 folds need at least 80 texts with an LLM answer; 59"):
        dataset(tmp_path, folds=40)


def test_the_fingerprint_follows_texts_labels_and_answers(tmp_path: Path) -> None:
    before = dataset(tmp_path)
    assert dataset(tmp_path).fingerprint == before.fingerprint
    answers = tmp_path / "answers.jsonl"
    reply = json.dumps([{"W": "泵", "L": "EQUIP"}])
    answers.write_text(answers.read_text() + "\n" + json.dumps({"text": DOCUMENTS[55].text, "response": reply}))
    after = read_dataset(before.plan, Plan(name="e", out=tmp_path, datasets=(before.plan,), systems=("llm",)))
    assert after.fingerprint != before.fingerprint
