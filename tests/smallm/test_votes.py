from __future__ import annotations

from smallm.alignment import spans_to_tags, tags_to_spans
from smallm.documents import Span
from smallm.labels import LabelSet
from smallm.votes import one_hot

LABELS = LabelSet(("A", "B"))
OFFSETS = [(0, 1), (1, 4), (5, 6)]  # a space at 4


def test_absent_is_all_zero_and_distinct_from_no_entities() -> None:
    assert not one_hot(None, OFFSETS, LABELS).any()
    nothing = one_hot([], OFFSETS, LABELS)
    assert nothing[:, 0].tolist() == [1, 1, 1] and nothing.sum() == 3


def test_one_vote_a_token_and_types_outside_the_set_vote_for_o() -> None:
    votes = one_hot([Span(1, 6, "B"), Span(0, 1, "elsewhere")], OFFSETS, LABELS)
    assert votes.sum(axis=1).tolist() == [1, 1, 1]
    assert votes.argmax(axis=1).tolist() == [0, LABELS.begin("B"), LABELS.begin("B") + 1]


def test_two_spans_in_one_token_leave_it_to_the_earlier_one() -> None:
    tags = spans_to_tags([Span(0, 2, "A"), Span(2, 6, "B")], OFFSETS, LABELS)
    assert tags_to_spans(tags, OFFSETS, LABELS) == [Span(0, 4, "A"), Span(5, 6, "B")]
