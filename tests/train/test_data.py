from __future__ import annotations

from pathlib import Path

import pytest

from smallm.documents import Document, Span
from smallm.errors import DataError
from smallm.formats import write_documents
from smallm.llm.prompt import Demonstration, EntityType, Prompt
from smallm.llm.recordings import RecordedAnswers
from smallm_train.data import nested_subset, read_training_data

DOCUMENTS = [Document(str(index), f"{index}号泵漏油", (Span(0, len(str(index)) + 2, "EQUIP"),)) for index in range(30)]
PROMPT = Prompt("维修", (EntityType("FAULT"), EntityType("EQUIP")), (Demonstration("7号泵漏油", "[]"),))


def test_subsets_are_nested_and_begin_with_the_demonstrations() -> None:
    subsets = [nested_subset(DOCUMENTS, shots, 3, PROMPT, "f") for shots in (1, 5, 20)]
    assert [document.id for document in subsets[0]] == ["7"]
    assert subsets[1] == subsets[2][:5]
    assert nested_subset(DOCUMENTS, 5, 4, PROMPT, "f") != subsets[1]


@pytest.mark.parametrize("shots", [0, -1, 31])
def test_impossible_shots_are_refused(shots: int) -> None:
    with pytest.raises(DataError, match="between 1 and the 30"):
        nested_subset(DOCUMENTS, shots, 0, None, "train.jsonl")


def write(folder: Path) -> None:
    write_documents(folder / "train.jsonl", DOCUMENTS[:20])
    write_documents(folder / "dev.conll", DOCUMENTS[20:])


def test_types_of_the_prompt_come_first_and_demonstrations_have_no_answer(tmp_path: Path) -> None:
    write(tmp_path)
    replies = {document.text: "[]" for document in DOCUMENTS[:25]}
    data = read_training_data(tmp_path, RecordedAnswers(PROMPT, replies))
    assert data.labels.types == ("FAULT", "EQUIP")
    assert (data.train.answered, data.dev.answered) == (19, 5)
    assert data.train.answers[7] is None and data.train.answers[8] == []


def test_answers_to_other_texts_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match="fit none of the texts"):
        read_training_data(tmp_path, RecordedAnswers(PROMPT, {"别的": "[]"}))


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no train file"):
        read_training_data(tmp_path, None)
