from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from smallm.cli import main
from smallm.documents import Span
from smallm.errors import ArtifactError, LLMError
from smallm.llm import store as store_module
from smallm.llm.prompt import EntityType, Prompt
from smallm.llm.request import Model, ask
from smallm.llm.store import AnswerStore

PROMPT = Prompt("维修", (EntityType("EQUIP"),))
MODEL = Model("http://x", "m")
REPLY = '[{"W": "泵", "L": "EQUIP"}]'


def test_an_answer_is_remembered_across_openings_with_its_raw_reply_and_tags(tmp_path: Path) -> None:
    request = ask(MODEL, PROMPT, "换泵")
    store = AnswerStore(tmp_path / "s.sqlite")
    assert store.spans(request, PROMPT, "换泵") is None
    assert store.add(request, PROMPT, "换泵", REPLY) == [Span(1, 2, "EQUIP")]
    store.close()
    assert AnswerStore(tmp_path / "s.sqlite").spans(request, PROMPT, "换泵") == [Span(1, 2, "EQUIP")]
    database = sqlite3.connect(tmp_path / "s.sqlite")
    assert database.execute("SELECT reply FROM replies").fetchone() == (REPLY,)
    assert json.loads(database.execute("SELECT tags FROM tags").fetchone()[0]) == ["O", "B-EQUIP"]


def test_a_reply_that_does_not_parse_is_kept_raw_and_never_becomes_an_answer(tmp_path: Path) -> None:
    store, request = AnswerStore(tmp_path / "s.sqlite"), ask(MODEL, PROMPT, "换泵")
    for _ in range(2):
        with pytest.raises(LLMError):
            store.add(request, PROMPT, "换泵", "对不起")
    with pytest.raises(LLMError):
        store.spans(request, PROMPT, "换泵")
    assert (store.stats().replies, store.stats().parsed) == (1, 0)


def test_a_better_parser_reads_the_kept_replies_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, request = AnswerStore(tmp_path / "s.sqlite"), ask(MODEL, PROMPT, "换泵")
    store.add(request, PROMPT, "换泵", REPLY)
    monkeypatch.setattr(store_module, "PARSER_VERSION", 999)
    monkeypatch.setattr(store_module, "parse_reply", lambda reply: [])
    assert store.spans(request, PROMPT, "换泵") == []
    assert store.stats().parsed == 1


def test_an_import_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "s.sqlite")
    good = [(ask(MODEL, PROMPT, str(index)), REPLY) for index in range(3)]
    with pytest.raises(sqlite3.Error):
        store.add_replies([*good, (ask(MODEL, PROMPT, "x"), object())], "维修")  # type: ignore[list-item]
    assert store.stats().replies == 0
    assert store.add_replies(good, "维修") == 3 and store.add_replies(good, "维修") == 0


def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "s.sqlite"
    file.write_text("this is not a database, it is a text")
    with pytest.raises(ArtifactError, match="answer store"):
        AnswerStore(file)
    assert file.read_text().startswith("this is")


def test_recorded_answers_import_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"text": f"换泵{index}", "response": REPLY}) for index in range(3)]
    (tmp_path / "answers.jsonl").write_text("\n".join([*lines, json.dumps({"text": "x", "response": "?"})]))
    (tmp_path / "prompt.json").write_text(json.dumps(PROMPT.to_json()))
    store = tmp_path / "s.sqlite"
    assert main(["llm", "import", str(tmp_path / "answers.jsonl"), "--store", str(store)]) == 0
    assert "4 answers read, 4 new, 1 without" in capsys.readouterr().out
    assert main(["llm", "stats", str(store)]) == 0
    assert "4 replies, 3 parsed" in capsys.readouterr().out
