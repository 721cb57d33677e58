"""Bootstrap, error scenarios and rescued tokens on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallm.documents import Document, Span
from smallm.llm.prompt import EntityType, Prompt
from smallm.llm.recordings import RecordedAnswers
from smallm.scoring import score
from smallm_train import bootstrap
from smallm_train.experiment import errors
from smallm_train.experiment.errors import Scenario

TEXTS = 80
GOLD = [[Span(0, 2, "A"), Span(4, 6, "B")] for _ in range(TEXTS)]


def noisy(share: float, seed: int) -> list[list[Span]]:
    """The gold spans, each kept with probability `share`, else with a wrong type."""
    rng = np.random.default_rng(seed)
    return [[s if rng.random() < share else Span(s.start, s.end, "C") for s in spans] for spans in GOLD]


WEIGHTS = bootstrap.resample(TEXTS, 1000)


def test_the_figure_is_the_mean_over_seeds_of_micro_f1() -> None:
    seeds = [noisy(0.7, seed) for seed in range(3)]
    found = bootstrap.interval(bootstrap.count(GOLD, seeds), WEIGHTS)
    assert found.value == pytest.approx(np.mean([score(GOLD, one)["f1"] for one in seeds]))
    assert found.low < found.value < found.high and found.high - found.low < 0.3


def test_identical_systems_do_not_differ_and_a_better_one_does() -> None:
    same, better = (bootstrap.count(GOLD, [noisy(share, seed) for seed in range(2)]) for share in (0.6, 0.9))
    none = bootstrap.difference(same, same, WEIGHTS)
    assert (none.value, none.low, none.high, none.p) == (0, 0, 0, 1)
    some = bootstrap.difference(better, same[:1], WEIGHTS)  # seeds may differ in number
    assert 0 < some.low < some.value < some.high and some.p < 0.01
    back = bootstrap.difference(same[:1], better, WEIGHTS)
    assert back.value == pytest.approx(-some.value) and back.p == pytest.approx(some.p)


def test_equally_good_systems_differ_significantly_about_as_often_as_promised() -> None:
    found = []
    for trial in range(100):
        pair = [bootstrap.count(GOLD, [noisy(0.7, 1000 * side + trial)]) for side in (1, 2)]
        found.append(bootstrap.difference(pair[0], pair[1], WEIGHTS))
    outside = sum(not one.low <= 0 <= one.high for one in found)
    assert outside <= 14 and all((one.p < 0.03) <= (not one.low <= 0 <= one.high) for one in found)


def test_no_entities_at_all_is_zero_not_a_division() -> None:
    assert bootstrap.interval(bootstrap.count([[], []], [[[], []]]), bootstrap.resample(2, 100)).high == 0


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (Span(2, 5, "A"), Scenario.CORRECT),
        (Span(2, 5, "B"), Scenario.WRONG_TYPE),
        (Span(1, 5, "A"), Scenario.OVERLAPPING),
        (Span(4, 9, "B"), Scenario.OVERLAPPING),  # of the second; the first has another type
        (Span(3, 6, "C"), Scenario.OTHER),
        (Span(5, 7, "A"), Scenario.OTHER),  # touches the first, overlaps only the second
        (Span(20, 22, "A"), Scenario.OTHER),
    ],
)
def test_each_scenario(span: Span, expected: Scenario) -> None:
    assert errors.scenario(span, [Span(2, 5, "A"), Span(6, 9, "B")]) is expected


@st.composite
def spans(draw: st.DrawFn) -> list[Span]:
    borders = sorted(draw(st.sets(st.integers(0, 14), max_size=8)))
    pairs = zip(borders[::2], borders[1::2], strict=False)
    return [Span(start, end, draw(st.sampled_from("AB"))) for start, end in pairs]


@given(st.lists(st.tuples(spans(), spans()), min_size=1, max_size=4))
def test_every_prediction_has_one_scenario_and_nervaluate_counts_the_same(
    texts: list[tuple[list[Span], list[Span]]],
) -> None:
    gold, predicted = [pair[0] for pair in texts], [pair[1] for pair in texts]
    found = errors.scenarios(gold, predicted)
    assert sum(found.values()) == sum(map(len, predicted))
    matching = errors.matching(gold, predicted)
    assert matching.strict == pytest.approx(score(gold, predicted)["f1"])
    edges = [[[Span(s.start, s.end, "") for s in spans] for spans in side] for side in (gold, predicted)]
    assert matching.exact == pytest.approx(score(*edges)["f1"])


def test_what_the_llm_fabricates_is_counted_from_its_raw_reply() -> None:
    prompt = Prompt("", (EntityType("A"),))
    reply = '[{"W": "泵", "L": "A"}, {"W": "泵", "L": "A"}, {"W": "阀", "L": "A"}, {"W": "油", "L": "Z"}]'
    found = errors.fabrications([Document("1", "泵漏油")], RecordedAnswers(prompt, {"泵漏油": reply}))
    assert found == {Scenario.FABRICATED_SPAN: 1, Scenario.FABRICATED_TYPE: 1, Scenario.OTHER: 1}


def test_rescued_and_harmed_tokens() -> None:
    document = Document("1", "ab cdef", (Span(0, 2, "A"), Span(3, 5, "B")))
    before, after = [[Span(0, 2, "A"), Span(5, 7, "B")]], [[Span(1, 2, "A"), Span(3, 5, "B")]]
    found = errors.rescued_and_harmed([document], before, after)
    assert (found.rescued, found.harmed, found.tokens) == (4, 2, 6)
    same = errors.rescued_and_harmed([document], before, before)
    assert (same.rescued, same.harmed) == (0, 0)
