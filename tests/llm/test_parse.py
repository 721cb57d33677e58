"""The reply parser: what real models do to JSON, and whatever else arrives."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallm.errors import LLMError
from smallm.llm.parse import Mention, parse_reply

PUMP, LEAK = Mention("3号泵", "EQUIP"), Mention("漏油", "FAULT")
ARRAY = '[{"W": "3号泵", "L": "EQUIP"}, {"W": "漏油", "L": "FAULT"}]'


@pytest.mark.parametrize(
    "reply",
    [
        ARRAY,
        f"```json\n{ARRAY}\n```",
        f"```\n{ARRAY}\n```",
        f"好的，抽取结果如下：\n{ARRAY}\n以上。",
        f"说明：\n```json\n{ARRAY}\n```\n如有问题请告知。",
        ARRAY.replace('"', "'"),
        ARRAY.replace("}]", "},]"),
        f'{{"entities": {ARRAY}}}',
        ARRAY.replace('"W"', '"text"').replace('"L"', '"type"'),
        ARRAY[:-1],  # cut off after the last item
        ARRAY[:-1] + ', {"W": "停',  # cut off inside an item
        ARRAY.replace("}, {", "}\n{"),  # one object a line
    ],
)
def test_the_mentions_survive(reply: str) -> None:
    assert parse_reply(reply) == [PUMP, LEAK]


@pytest.mark.parametrize("reply", ["[]", "```json\n[]\n```", "没有实体：[ ]"])
def test_an_empty_array_is_an_answer(reply: str) -> None:
    assert parse_reply(reply) == []


@pytest.mark.parametrize("reply", ["", "对不起，我不能回答。", "{}", "null", "42", '["泵"]', '{"W": "泵"}'])
def test_no_answer_is_not_an_empty_one(reply: str) -> None:
    with pytest.raises(LLMError) as caught:
        parse_reply(reply)
    assert caught.value.reason == "unparsable"


def test_a_broken_item_costs_only_itself() -> None:
    assert parse_reply('[{"W": "3号泵", "L": "EQUIP"}, {"W": 7, "L": "FAULT"}, {"L": "X"}]') == [PUMP]


def test_the_error_does_not_repeat_the_reply() -> None:
    with pytest.raises(LLMError) as caught:
        parse_reply("机密内容没有数组")
    assert "机密" not in str(caught.value)


@given(st.text(max_size=200) | st.text("[]{}\"':,WL泵\\n `", max_size=200))
def test_any_text_gives_mentions_or_unparsable(reply: str) -> None:
    try:
        mentions = parse_reply(reply)
    except LLMError as error:
        assert error.reason == "unparsable"
    else:
        assert all(mention.text and mention.type for mention in mentions)


@given(st.lists(st.tuples(st.text(min_size=1, max_size=8), st.text(min_size=1, max_size=8)), max_size=6))
def test_well_formed_json_gives_exactly_its_items(items: list[tuple[str, str]]) -> None:
    reply = json.dumps([{"W": text, "L": type_} for text, type_ in items], ensure_ascii=False)
    assert parse_reply(reply) == [Mention(text, type_) for text, type_ in items]


def test_deep_nesting_and_length_do_not_break_it() -> None:
    for reply in ("[" * 100_000, "{" * 100_000, '{"a":' * 50_000):
        with pytest.raises(LLMError):
            parse_reply(reply)
