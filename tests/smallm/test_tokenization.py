"""Offsets survive any text, with the embedded tokenizer and with one built from a BERT vocab.txt."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallm.alignment import spans_to_tags, tags_to_spans
from smallm.documents import Span
from smallm.encoder import resolve
from smallm.errors import ArtifactError
from smallm.labels import LabelSet
from smallm.tokenization import SPECIAL_TOKENS, TextTokenizer

EMBEDDED = TextTokenizer.load(resolve().folder)
LABELS = LabelSet(("A",))
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("泵 　Ａ1．A-z\t\u200d😀é\u0301ﬁ㎡"), max_size=60
)


def vocab_txt(folder: Path) -> TextTokenizer:
    words = [*SPECIAL_TOKENS, "泵", "漏", "油", "pump", "##s", "1"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return TextTokenizer.load(folder)


@given(TEXTS)
def test_offsets_are_ascending_inside_the_text_and_lose_nothing_visible(text: str) -> None:
    tokens = EMBEDDED.encode(text)
    previous = (0, 0)
    for offset in tokens.offsets:
        assert offset == previous or previous[1] <= offset[0] < offset[1] <= len(text)
        previous = offset
    covered = {index for start, stop in tokens.offsets for index in range(start, stop)}
    assert {i for i, character in enumerate(text) if character.isalnum() and ord(character) < 0x3000} <= covered


PLAIN = st.text(
    st.sampled_from("泵漏 \n\t3aB-Zz.ＡｚＢ１，。【】「」《》·×°±…—“”～~`㐀")
    | st.characters(min_codepoint=0x2000, max_codepoint=0x30FF)
    | st.characters(min_codepoint=0, max_codepoint=0x17F),
    max_size=30,
)


@pytest.fixture(scope="module")
def from_vocab_txt(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return vocab_txt(tmp_path_factory.mktemp("vocabulary"))


@given(text=PLAIN | TEXTS)
def test_the_way_by_remembered_pieces_gives_the_librarys_tokens(from_vocab_txt: TextTokenizer, text: str) -> None:
    for tokenizer in (EMBEDDED, from_vocab_txt):
        library = tokenizer._tokenizer.encode(text, add_special_tokens=False)
        for _ in range(2):
            tokens = tokenizer.encode(text)
            assert (tokens.ids, tokens.offsets) == (library.ids, library.offsets)


@given(st.lists(TEXTS | st.sampled_from(["泵，\u0301", "A" * 30, "か\u3099", "\n", "ＡＢ。c"])).map("".join))
def test_a_long_text_in_blocks_has_the_tokens_of_the_whole(text: str) -> None:
    whole = EMBEDDED.encode(text)
    with mock.patch("smallm.tokenization.BLOCK", 5):
        packed = EMBEDDED.encode_long(text)
    assert len(packed) == len(whole) and packed[0 : len(packed)] == whole
    assert packed[1:3] == whole[1:3]


@given(st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), max_size=40))
def test_one_token_for_every_han_character(text: str) -> None:
    assert EMBEDDED.encode(text).offsets == [(index, index + 1) for index in range(len(text))]


@given(st.data())
def test_any_span_of_han_characters_in_any_text_round_trips(data: st.DataObject) -> None:
    before, after = data.draw(TEXTS), data.draw(TEXTS)
    inside = data.draw(st.text("泵漏油主轴电机", min_size=1, max_size=8))
    span = Span(len(before), len(before) + len(inside), "A")
    offsets = EMBEDDED.encode(before + inside + after).offsets
    assert tags_to_spans(spans_to_tags([span], offsets, LABELS), offsets, LABELS) == [span]


def test_spans_that_meet_inside_one_character_do_not_overlap() -> None:
    offsets = EMBEDDED.encode("㎡").offsets
    assert offsets == [(0, 1), (0, 1)]
    assert tags_to_spans([1, 1], offsets, LABELS) == [Span(0, 1, "A")]


def test_full_width_latin_digits_spaces_and_emoji_keep_their_offsets() -> None:
    text = "泵 Ａ1😀\u3000M16×2 漏"
    slices = [text[start:end] for start, end in EMBEDDED.encode(text).offsets]
    assert "".join(slices) == text.replace(" ", "").replace("\u3000", "")
    assert EMBEDDED.encode("ＡＢＣ１２").ids == EMBEDDED.encode("abc12").ids


def test_a_bert_vocab_txt_gives_the_same_offsets(tmp_path: Path) -> None:
    tokens = vocab_txt(tmp_path).encode("泵Pumps 漏油1")
    assert tokens.offsets == [(0, 1), (1, 5), (5, 6), (7, 8), (8, 9), (9, 10)]


def test_encoding_in_a_batch_equals_encoding_alone() -> None:
    texts = ["泵漏油", "", "M16 螺栓松动", "😀"]
    assert EMBEDDED.encode_batch(texts) == [EMBEDDED.encode(text) for text in texts]


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no tokenizer.json or vocab.txt"):
        TextTokenizer.load(tmp_path)
