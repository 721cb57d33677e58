"""`smallm llm`: filling a store ahead of time, carrying it elsewhere, reading it anew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from smallm.cli import main
from smallm.llm import parse
from smallm.llm.bridge import Answer, Status, absent
from smallm.llm.reasons import Reason
from smallm.llm.settings import Mode
from smallm.llm.store import open_store
from tests.fake_llm import FakeLLM, Fault
from tests.llm.bridges import PROMPT, PUMP, answers, settings, stored
from tests.llm.redis_server import RedisServer

REPLY = '[{"W": "泵", "L": "EQUIP"}]'


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "prompt.json").write_text(json.dumps(PROMPT.to_json()))
    file = tmp_path / "texts.txt"
    file.write_text("换泵\n买泵\n\n换泵\n示例文本\n下班\n", encoding="utf-8")
    return file


def annotate(texts: Path, store: object, fake: FakeLLM, *options: str) -> int:
    told = ["--llm-url", fake.url, "--llm-model", "m", "--store", str(store), *options]
    return main(["llm", "annotate", str(texts), *told])


def test_annotate_fills_the_store_once_and_tells_what_it_costs(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "llm.toml"
    with FakeLLM() as fake:
        config.write_text(
            f'store = "s"\n[[endpoint]]\nurl = "{fake.url}"\nmodel = "m"\ninput_price = 1000\noutput_price = 1000\n'
        )
        command = ["llm", "annotate", str(texts), "--llm-config", str(config)]
        assert main([*command, "--estimate"]) == 0
        estimated = capsys.readouterr().out
        assert "3 texts to ask about, 1 answered already" in estimated and fake.requests == []
        assert main(command) == 0
        out = capsys.readouterr().out
        assert "fresh: 3" in out and "actually 300 + 30 tokens, 0.3300" in out
        assert main(command) == 0 and len(fake.requests) == 3
        assert "0 texts to ask about" in capsys.readouterr().out
        assert answers(settings(fake.url, store=tmp_path / "s"), "换泵") == [Answer(Status.CACHED, PUMP)]


def test_an_annotation_that_ends_early_is_taken_up_again(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeLLM(fault=Fault(401, "{}")) as fake:
        assert annotate(texts, tmp_path / "s", fake) == 1
        assert "3 texts left (ended early: unauthorized)" in capsys.readouterr().out
        fake.script(Fault())
        assert annotate(texts, tmp_path / "s", fake) == 0
    assert sorted(record.text for record in stored(tmp_path / "s")) == ["下班", "买泵", "换泵"]


def test_annotate_through_the_batch_api_survives_an_interruption(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "batch.json"
    with FakeLLM() as fake, monkeypatch.context() as patch:

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("smallm.llm.batch.collect", interrupted)
        assert annotate(texts, tmp_path / "s", fake, "--batch", str(state)) == 130
        assert state.is_file() and stored(tmp_path / "s") == []
        patch.undo()
        assert annotate(texts, tmp_path / "s", fake, "--batch", str(state), "--poll", "0") == 0
        assert "fresh: 3" in capsys.readouterr().out and not state.exists()
        assert len(fake.requests) == 3  # one batch, although there were two runs
        assert answers(settings(fake.url, store=tmp_path / "s"), "换泵") == [Answer(Status.CACHED, PUMP)]


def test_an_exported_set_answers_the_same_questions_where_there_is_no_network(
    texts: Path, tmp_path: Path, redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    redis_server.flush()
    with FakeLLM() as fake:
        assert annotate(texts, tmp_path / "s", fake) == 0
    exported = tmp_path / "answers.jsonl"
    assert main(["llm", "export", str(tmp_path / "s"), str(exported)]) == 0
    for elsewhere in (str(tmp_path / "other.sqlite"), redis_server.url):
        assert main(["llm", "import", str(exported), "--store", elsewhere]) == 0
        told = settings(fake.url, store=elsewhere)
        found = answers(told, "换泵", "下班", "没问过", mode=Mode.CACHED_ONLY)
        assert found == [Answer(Status.CACHED, PUMP), Answer(Status.CACHED, []), absent(Reason.NOT_CACHED)]
        assert sorted(stored(elsewhere), key=str) == sorted(stored(tmp_path / "s"), key=str)
    recorded = str(tmp_path / "recorded.sqlite")  # as answers to whoever is asked, for a server without an endpoint
    assert main(["llm", "import", str(exported), "--store", recorded, "--prompt", str(tmp_path / "prompt.json")]) == 0
    assert answers(settings(store=recorded), "换泵") == [Answer(Status.CACHED, PUMP)]
    assert "3 answers read, 3 new, 0 without" in capsys.readouterr().out


def test_a_bad_line_is_named_and_nothing_is_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"text": "换泵", "response": REPLY, "key": "0" * 64, "domain": "d", "provider": "p", "model": "m",
            "types": ["EQUIP"]}  # fmt: skip
    for line, told in (
        ({**good, "key": "x"}, "answers.jsonl:2: field 'key'"),
        ({**good, "types": 3}, "answers.jsonl:2: field 'types'"),
        ({**good, "response": 3}, "answers.jsonl:2: field 'response'"),
        ({name: value for name, value in good.items() if name != "model"}, "answers.jsonl:2: field 'model'"),
    ):
        (tmp_path / "answers.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(line))
        assert main(["llm", "import", str(tmp_path / "answers.jsonl"), "--store", str(tmp_path / "s")]) == 1
        assert told in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_better_parser_reads_old_replies_without_a_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeLLM({"买泵": "泵=EQUIP"}) as fake:
        told = settings(fake.url, store=tmp_path / "s")
        assert answers(told, "换泵", "买泵") == [Answer(Status.FRESH, PUMP), absent(Reason.UNPARSABLE)]
        assert main(["llm", "reparse", str(tmp_path / "s")]) == 0
        assert "0 replies read anew, 0 of them for the first time; 1 are" in capsys.readouterr().out

        def better(reply: str) -> list[parse.Mention]:
            return [parse.Mention("泵", "EQUIP")]

        monkeypatch.setattr(parse, "PARSER_VERSION", 999)
        monkeypatch.setattr("smallm.llm.reading.parse_reply", better)
        assert main(["llm", "reparse", str(tmp_path / "s")]) == 0
        assert "2 replies read anew, 1 of them for the first time; 0 are" in capsys.readouterr().out
        assert answers(told, "换泵", "买泵") == [Answer(Status.CACHED, PUMP)] * 2 and len(fake.requests) == 2


def test_stats_and_purge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "s")
    with FakeLLM({"买泵": "?"}) as fake:
        answers(settings(fake.url, store=path, endpoint={"input_price": 1}), "换泵", "买泵")
    assert main(["llm", "stats", path]) == 0
    out = capsys.readouterr().out
    assert "2 replies, 1 parsed" in out and "no answer, unparsable: 1" in out
    assert "today: 2 calls, 220 tokens, 0.0002 spent" in out
    assert main(["llm", "purge", path]) == 1 and "conditions, or --all" in capsys.readouterr().err
    store = open_store(path)
    (good,) = (record for record in store.scan() if record.outcome is None)
    store.put([(replace(good, key="1" * 64, created=1.0, expires=1.0, domain="other"), None)])
    store.close()
    for condition, count in (
        (["--expired", "--domain", "维修"], 0),
        (["--expired", "--older-than", "1", "--model", "m"], 1),
        (["--unusable"], 1),
        (["--all"], 1),
    ):
        assert main(["llm", "purge", path, *condition]) == 0
        assert capsys.readouterr().out == f"{count} answers forgotten\n"
    assert main(["llm", "stats", str(tmp_path / "none")]) == 1 and "no such store" in capsys.readouterr().err


def test_what_is_missing_is_said(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, told in (
        (["--store", "s"], "no endpoint"),
        (["--llm-url", "http://x/v1", "--llm-model", "m"], "no store"),
        (["--llm-url", "http://x/v1"], "together"),
    ):
        assert main(["llm", "annotate", str(texts), *options]) == 1
        assert told in capsys.readouterr().err
