"""The key: equal for the very same question, and for no other."""

from __future__ import annotations

import json
import random
from dataclasses import fields, replace

import numpy as np
import pytest

from smallm.documents import Document, Span
from smallm.labels import LabelSet
from smallm.llm import compact
from smallm.llm.demonstrations import NearestDemonstrations
from smallm.llm.prompt import Demonstration, EntityType, Prompt
from smallm.llm.request import Model, Request, ask, asking
from smallm.llm.response_format import ResponseFormat

CASES = 10_000
FORMATS = [form for form in ResponseFormat if form is not ResponseFormat.AUTO]
CHARACTERS = '泵漏油电机甲乙方付款0123abc"\\{}[],: \n\u2028😀'


def _text(generator: random.Random) -> str:
    return "".join(generator.choices(CHARACTERS, k=generator.randint(0, 12)))


def _question(generator: random.Random) -> tuple[Model, Prompt, str, ResponseFormat]:
    model = Model(
        generator.choice(["http://a/v1", "http://b/v1"]),
        generator.choice(["m", "n"]),
        generator.choice([None, 0.0, 0.5]),
        generator.choice([512, 2048]),
        generator.choice([None, 0.5]),
        generator.choice([None, 0, 1]),
        generator.choice(["{}", '{"top_k": 1}']),
    )
    types = tuple(EntityType(name, _text(generator)) for name in generator.choice([("A",), ("B",), ("A", "B")]))
    shown = tuple(Demonstration(_text(generator), "[]") for _ in range(generator.randint(0, 2)))
    return model, Prompt(_text(generator), types, shown), _text(generator), generator.choice(FORMATS)


def test_ten_thousand_questions_have_a_key_each() -> None:
    generator = random.Random(0)
    questions: dict[str, str] = {}
    for _ in range(CASES):
        model, prompt, text, form = _question(generator)
        request = ask(model, prompt, text, form)
        meaning = repr((model, request.messages, request.response_format))
        assert questions.setdefault(request.key, meaning) == meaning
        assert ask(replace(model), replace(prompt), "".join(text), form).key == request.key
        assert asking(model, prompt, form).key(text) == request.key
    assert len(questions) == len(set(questions.values()))


def test_every_difference_in_any_part_changes_the_key() -> None:
    generator = random.Random(1)
    for _ in range(CASES // 10):
        model, prompt, text, form = _question(generator)
        request = ask(model, prompt, text, form)
        others = [
            ask(replace(model, provider=model.provider + "x"), prompt, text, form),
            ask(replace(model, name=model.name + "x"), prompt, text, form),
            ask(replace(model, temperature=(model.temperature or 0) + 0.1), prompt, text, form),
            ask(replace(model, max_tokens=model.max_tokens + 1), prompt, text, form),
            ask(replace(model, top_p=(model.top_p or 0) + 0.1), prompt, text, form),
            ask(replace(model, seed=(model.seed or 0) + 7), prompt, text, form),
            ask(replace(model, extra='{"x": 1}'), prompt, text, form),
            ask(model, replace(prompt, domain=prompt.domain + "x"), text, form),
            ask(model, replace(prompt, types=(*prompt.types, EntityType("C"))), text, form),
            ask(model, replace(prompt, demonstrations=(*prompt.demonstrations, Demonstration("x", "[]"))), text, form),
            ask(model, replace(prompt, system="x"), text, form),
            ask(model, prompt, text + "x", form),
            *(ask(model, prompt, text, other) for other in FORMATS if other is not form),
            replace(request, template="v0"),
        ]
        keys = {request.key, *(other.key for other in others)}
        assert len(keys) == len(others) + 1
    assert {one.name for one in fields(Model)} == {
        "provider", "name", "temperature", "max_tokens", "top_p", "seed", "extra"
    }  # fmt: skip
    assert {one.name for one in fields(Request)} == {"model", "messages", "response_format", "template"}


def test_the_order_of_an_object_s_fields_is_not_a_difference() -> None:
    one = Request(Model("p", "m"), [{"role": "user", "content": "泵"}], {"a": 1, "b": 2})
    other = Request(Model("p", "m"), [{"content": "泵", "role": "user"}], {"b": 2, "a": 1})
    assert one.key == other.key


@pytest.mark.parametrize("types", [3, 200])
def test_tags_are_small_and_come_back_as_the_same_spans(types: int) -> None:
    labels, generator = LabelSet(tuple(f"T{index}" for index in range(types))), random.Random(2)
    for _ in range(300):
        length = generator.randint(0, 60)
        cuts = sorted(generator.sample(range(length + 1), min(length + 1, 2 * generator.randint(0, 6))))
        pairs = zip(cuts[::2], cuts[1::2], strict=False)
        spans = [Span(start, end, generator.choice(labels.types)) for start, end in pairs]
        packed = compact.encode(spans, length, labels)
        assert compact.decode(packed, labels) == spans
        assert len(packed) == length * (1 if types == 3 else 2)
        rows = compact.one_hot(packed, labels)
        assert rows.shape == (length, labels.num_tags) and (rows.sum(axis=1) == 1).all()
        assert np.array_equal(rows.argmax(axis=1), compact.tag_ids(packed, labels))
    touching = [Span(0, 2, "T0"), Span(2, 3, "T0"), Span(3, 4, "T1")]
    assert compact.decode(compact.encode(touching, 4, labels), labels) == touching


def test_the_nearest_sentences_are_shown_and_never_the_text_itself() -> None:
    texts = ["电机轴承异响", "水泵密封漏水", "水泵机械密封漏油", "下班"]
    documents = [Document(str(index), text, (Span(0, 2, "EQUIP"),)) for index, text in enumerate(texts)]
    chosen = NearestDemonstrations(documents, 2).choose(Prompt("x", (EntityType("EQUIP"),)), "水泵机械密封漏油")
    assert [shown.text for shown in chosen.demonstrations] == ["水泵密封漏水"]
    near = NearestDemonstrations(documents, 2).choose(Prompt("x", (EntityType("EQUIP"),)), "水泵机械密封坏了")
    assert [shown.text for shown in near.demonstrations] == ["水泵密封漏水", "水泵机械密封漏油"]
    assert json.loads(near.demonstrations[0].answer) == [{"W": "水泵", "L": "EQUIP"}]
