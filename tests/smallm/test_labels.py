from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallm.errors import LabelError
from smallm.labels import LabelSet, TagSpan, to_spans

LABELS = LabelSet(("EQUIP", "FAULT"))


@st.composite
def span_lists(draw: st.DrawFn) -> tuple[list[TagSpan], int]:
    cuts = sorted(draw(st.lists(st.integers(0, 30), unique=True, max_size=12)))
    spans = [
        TagSpan(start, end, draw(st.sampled_from(LABELS.types)))
        for start, end in zip(cuts[::2], cuts[1::2], strict=False)
    ]
    return spans, 31


@given(span_lists())
def test_encoding_then_decoding_gives_the_spans_back(drawn: tuple[list[TagSpan], int]) -> None:
    spans, length = drawn
    assert LABELS.decode(LABELS.encode(spans, length)) == spans


@pytest.mark.parametrize(
    "tags",
    [
        ["B-EQUIP", "I-EQUIP", "O", "B-FAULT"],
        ["B-EQUIP", "E-EQUIP", "O", "S-FAULT"],  # BIOES and BMES
        ["I-EQUIP", "I-EQUIP", "O", "I-FAULT"],  # no start at all
    ],
)
def test_every_scheme_reads_as_the_same_spans(tags: list[str]) -> None:
    assert to_spans(tags) == [TagSpan(0, 2, "EQUIP"), TagSpan(3, 4, "FAULT")]


def test_bmes_middle_and_adjacent_spans() -> None:
    assert to_spans(["B-A", "M-A", "E-A", "B-A", "E-A", "S-A"]) == [
        TagSpan(0, 3, "A"),
        TagSpan(3, 5, "A"),
        TagSpan(5, 6, "A"),
    ]


@pytest.mark.parametrize("tag", ["X-EQUIP", "B", "B-", "", "EQUIP"])
def test_a_tag_of_no_scheme_is_refused_by_name(tag: str) -> None:
    with pytest.raises(LabelError, match=f"tag '{tag}'"):
        to_spans([tag])


def test_overlapping_spans_and_unknown_types_are_refused() -> None:
    with pytest.raises(LabelError, match="overlaps"):
        LABELS.encode([TagSpan(0, 3, "EQUIP"), TagSpan(2, 4, "FAULT")], 5)
    with pytest.raises(LabelError, match="unknown entity type 'PART'"):
        LABELS.encode([TagSpan(0, 1, "PART")], 2)


def test_only_bio_moves_are_legal() -> None:
    o, begin, inside, other_inside = 0, LABELS.begin("EQUIP"), LABELS.begin("EQUIP") + 1, LABELS.begin("FAULT") + 1
    assert LABELS.legal(None, begin) and LABELS.legal(None, o) and not LABELS.legal(None, inside)
    assert LABELS.legal(begin, inside) and LABELS.legal(inside, inside)
    assert not LABELS.legal(o, inside) and not LABELS.legal(begin, other_inside)
