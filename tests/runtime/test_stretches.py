"""Long texts in bounded memory: the answer of one piece, whatever is read at once."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from smallm_runtime.engine import Engine, Item, Work
from smallm_runtime.profile import Profile
from smallm_runtime.stretches import MARGIN, Stretches

from smallm.documents import Span
from smallm.fusion import Entity, Source
from smallm.tokenization import Tokens
from tests.conftest import SampleDomain


def document(sample: SampleDomain, count: int) -> tuple[str, list[Span]]:
    """`count` sample texts as one, with the LLM's answers to them; the first of them has its white space too."""
    text, answer = "", list[Span]()
    for one, spans in list(zip(sample.test, sample.test_answers, strict=True))[:count]:
        answer += [Span(len(text) + span.start, len(text) + span.end, span.type) for span in spans or []]
        text += one.text + ("\n" if len(text) % 3 else " ")
    return text, answer


@pytest.fixture(scope="module")
def engine(bundle_folder: Path) -> Engine:
    return Engine.load(bundle_folder)


def at_once(engine: Engine, tokens: int) -> Engine:
    engine.profile = replace(engine.profile, round_tokens=tokens)
    return engine


@pytest.mark.parametrize("answered", [False, True])
def test_a_long_text_in_stretches_is_answered_as_in_one_piece(
    engine: Engine, sample: SampleDomain, answered: bool
) -> None:
    text, spans = document(sample, 110)
    item = Item(text, answer=spans if answered else None)
    (whole,) = at_once(engine, 10**6).recognize([item])
    assert len(text) > 3000 and len(whole) > 200
    found = [at_once(engine, tokens).recognize([item])[0] for tokens in (1, 1100, 2048)]
    for parts in found:
        assert [(one.span, one.source) for one in parts] == [(one.span, one.source) for one in whole]
        np.testing.assert_allclose([one.score for one in parts], [one.score for one in whole], atol=2e-3)


def test_what_is_held_at_once_does_not_grow_with_the_text(engine: Engine, sample: SampleDomain) -> None:
    at_once(engine, 1024)
    text, _ = document(sample, 110)
    peaks, steps = [], []
    for times in (1, 3):
        work = Work(Item(text * times))
        tracemalloc.start()
        steps.append(0)
        while work.result is None:
            engine.step([work])
            steps[-1] += 1
        peaks.append(tracemalloc.get_traced_memory()[1] - 16 * len(text) * times)  # packed tokens, and the text's copy
        tracemalloc.stop()
    assert peaks[1] < 1.15 * peaks[0] and steps[1] == pytest.approx(3 * steps[0], abs=3)


@pytest.mark.parametrize("window", [20, 94, 510])
def test_every_entity_comes_once_wherever_the_borders_fall(window: int) -> None:
    """A head that finds an entity at every fourth to seventh token, of up to 5 tokens, the same from any stretch."""
    length = 3001
    tokens = Tokens(list(range(length)), [(2 * index, 2 * index + 2) for index in range(length)])
    starts = np.cumsum(np.random.default_rng(0).integers(5, 8, 600))
    wanted = [Span(2 * int(s), 2 * int(s) + 2 * int(1 + s % 5), "A") for s in starts if s < length - 6]
    way = Stretches(tokens, window, wanted[::-1], 1)
    while not way.done:
        stretch = way.read([np.array(part, dtype=np.float32)[:, None, None] for part in way.parts()])
        assert stretch.features[:, 0, 0].tolist() == list(range(stretch.begin, stretch.end))
        assert len(stretch.features) <= window + 4 * MARGIN
        first, last = stretch.offsets[0][0], stretch.offsets[-1][1]
        inside = [span for span in wanted if span.start >= first and span.end <= last]
        assert stretch.answer is not None and set(inside) <= set(stretch.answer)
        way.accept(stretch, [Entity(span, 1.0, Source.LOCAL) for span in inside], 0.5)
    assert [entity.span for entity in way.entities] == wanted and 0 < way.confidence < 1


def test_many_texts_at_once_are_taken_in_rounds(engine: Engine, sample: SampleDomain) -> None:
    texts = [one.text for one in sample.test[:40]]
    together = at_once(engine, 300).recognize([Item(text) for text in texts])
    alone = [at_once(engine, Profile().round_tokens).recognize([Item(text)])[0] for text in texts]
    assert [[one.span for one in found] for found in together] == [[one.span for one in found] for found in alone]


def test_an_encoder_call_holds_no_more_tokens_than_it_should(
    bundle_folder: Path, sample: SampleDomain, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [document.text for document in sample.test]
    wanted = Engine.load(bundle_folder, profile=Profile(call_tokens=2048)).recognize([Item(text) for text in texts])
    shapes, run = list[Any](), onnxruntime.InferenceSession.run

    def watched(session: Any, names: Any, feed: dict[str, Any]) -> Any:
        shapes.extend(feed[name].shape for name in feed if name == "input_ids")
        return run(session, names, feed)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", watched)
    found = Engine.load(bundle_folder, profile=Profile(call_tokens=100)).recognize([Item(text) for text in texts])
    assert any(rows > 1 for rows, _ in shapes) and all(rows * length <= 100 or rows == 1 for rows, length in shapes)
    assert [[one.span for one in part] for part in found] == [[one.span for one in part] for part in wanted]
