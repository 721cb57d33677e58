from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smallm.documents import Document, Span
from smallm.llm.align import align
from smallm.llm.parse import Mention

TYPES = ("EQUIP", "FAULT")


def mentions(*texts: str) -> list[Mention]:
    return [Mention(text, "EQUIP") for text in texts]


def test_repeated_mentions_take_successive_occurrences() -> None:
    assert align(mentions("泵", "泵"), "泵坏，换泵", TYPES) == [Span(0, 1, "EQUIP"), Span(4, 5, "EQUIP")]


def test_one_mention_of_a_repeated_string_takes_the_first() -> None:
    assert align(mentions("泵"), "泵坏，换泵", TYPES) == [Span(0, 1, "EQUIP")]


def test_order_tells_occurrences_apart() -> None:
    assert align(mentions("电机", "泵"), "泵和电机，另一泵", TYPES) == [Span(2, 4, "EQUIP"), Span(7, 8, "EQUIP")]


def test_out_of_order_mentions_are_found_from_the_start() -> None:
    assert align(mentions("电机", "水泵"), "水泵和电机", TYPES) == [Span(0, 2, "EQUIP"), Span(3, 5, "EQUIP")]


def test_fabricated_spans_and_types_are_dropped() -> None:
    given_mentions = [Mention("风机", "EQUIP"), Mention("泵", "PERSON"), Mention("漏油", "FAULT")]
    assert align(given_mentions, "泵漏油", TYPES) == [Span(1, 3, "FAULT")]


def test_overlapping_mentions_leave_the_first() -> None:
    assert align(mentions("主轴电机", "电机"), "主轴电机", TYPES) == [Span(0, 4, "EQUIP")]


@given(st.text("泵电机漏油 ", max_size=20), st.lists(st.text("泵电机漏油 ", min_size=1, max_size=4), max_size=8))
def test_whatever_comes_spans_are_slices_in_order_without_overlap(text: str, claimed: list[str]) -> None:
    spans = align(mentions(*claimed), text, TYPES)
    Document("x", text, tuple(spans))  # checks order, overlap and bounds
    assert all(text[span.start : span.end] in claimed for span in spans)
