from __future__ import annotations

import json
from pathlib import Path

import pytest

from smallm.errors import DataError
from smallm.llm.prompt import Demonstration, EntityType, Prompt
from smallm.llm.request import Model, ask

PROMPT = Prompt(
    "维修", (EntityType("EQUIP", "整机"), EntityType("FAULT")), (Demonstration("泵漏", '[{"W": "泵", "L": "EQUIP"}]'),)
)


def test_four_parts_in_order() -> None:
    system, shown, answer, asked = PROMPT.messages("电机异响")
    assert system["role"] == "system" and "维修" in system["content"]
    assert "- EQUIP：整机" in system["content"] and "- FAULT" in system["content"] and '"W"' in system["content"]
    assert (shown["content"], answer["content"]) == ("泵漏", '[{"W": "泵", "L": "EQUIP"}]')
    assert asked == {"role": "user", "content": "电机异响"}


def test_writing_and_reading_asks_the_very_same_question() -> None:
    again = Prompt.from_json(json.loads(json.dumps(PROMPT.to_json())))
    model = Model("http://x", "m")
    assert ask(model, again, "电机").key == ask(model, PROMPT, "电机").key


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({}, "types"),
        ({"types": []}, "types"),
        ({"types": [3]}, "types"),
        ({"types": ["A"], "demonstrations": [{}]}, "demonstrations"),
    ],
)
def test_a_bad_prompt_file_is_named_with_its_field(tmp_path: Path, value: object, field: str) -> None:
    file = tmp_path / "prompt.json"
    file.write_text(json.dumps(value))
    with pytest.raises(DataError, match=f"prompt.json: field '{field}"):
        Prompt.load(file)


def test_the_key_holds_everything_that_determines_the_answer() -> None:
    base = ask(Model("http://x", "m"), PROMPT, "甲方向乙方付款")
    others = [
        ask(Model("http://y", "m"), PROMPT, "甲方向乙方付款"),
        ask(Model("http://x", "n"), PROMPT, "甲方向乙方付款"),
        ask(Model("http://x", "m", temperature=0.5), PROMPT, "甲方向乙方付款"),
        ask(Model("http://x", "m", max_tokens=9), PROMPT, "甲方向乙方付款"),
        ask(Model("http://x", "m"), PROMPT, "乙方向甲方付款"),
        ask(Model("http://x", "m"), Prompt("维修", PROMPT.types), "甲方向乙方付款"),
    ]
    assert len({base.key, *(other.key for other in others)}) == 7
    assert base.key == ask(Model("http://x", "m"), PROMPT, "甲方向乙方付款").key
