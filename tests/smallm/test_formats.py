from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smallm.cli import main
from smallm.documents import Document, Span, cut_sentences
from smallm.errors import DataError, MissingExtraError
from smallm.formats import FORMATS, read_documents, write_documents

DOCUMENTS = [
    Document("1", "3号泵 漏油😀", (Span(0, 3, "EQUIP"), Span(4, 6, "FAULT"))),
    Document("2", "无故障", ()),
]


@pytest.mark.parametrize("suffix", [".jsonl", ".conll"])
def test_what_is_written_reads_back(tmp_path: Path, suffix: str) -> None:
    write_documents(tmp_path / f"data{suffix}", DOCUMENTS)
    assert read_documents(tmp_path / f"data{suffix}") == DOCUMENTS


def test_conll_reads_bmes_crlf_and_several_character_tokens(tmp_path: Path) -> None:
    file = tmp_path / "data.conll"
    file.write_bytes("主 B-PART\r\n轴 E-PART\r\nM16 S-CODE\r\n\r\n停 O\r\n".encode())
    assert read_documents(file) == [
        Document("1", "主轴M16", (Span(0, 2, "PART"), Span(2, 5, "CODE"))),
        Document("2", "停", ()),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "data.jsonl:1: not valid JSON"),
        ("[]", "expected a JSON object"),
        ('{"entities": []}', "field 'text': missing"),
        ('{"text": "泵", "entities": {}}', "field 'entities': not a list"),
        (
            '{"text": "泵", "entities": [{"start": 0, "end": "1", "type": "A"}]}',
            r"entities\[0\].end': missing or not an integer",
        ),
        ('{"text": "泵漏", "entities": [{"start": 0, "end": 1, "type": "A", "text": "漏"}]}', "does not equal"),
        ('{"text": "泵", "entities": [{"start": 0, "end": 2, "type": "A"}]}', "lies outside"),
        (
            '{"text": "泵漏", "entities": [{"start": 0, "end": 2, "type": "A"}, {"start": 1, "end": 2, "type": "A"}]}',
            "overlaps",
        ),
    ],
)
def test_a_bad_line_is_named_with_its_field(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text(line, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_documents(file)


def test_missing_empty_and_unknown_files_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "gbk.jsonl").write_bytes("泵".encode("gbk"))
    for name, message in (
        ("none.jsonl", "no such file"),
        ("empty.jsonl", "no documents"),
        ("gbk.jsonl", "not UTF-8"),
        ("data.xlsx", "unknown format"),
    ):
        with pytest.raises(DataError, match=message):
            read_documents(tmp_path / name)


@pytest.mark.parametrize("name", list(FORMATS))
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=2, max_size=20),
        min_size=1,
        max_size=4,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
def test_every_format_gives_back_text_and_entities(tmp_path: Path, name: str, texts: list[str]) -> None:
    if name in ("conll", "bmes", "bioes"):  # a column of white space can only be a plain space there
        texts = ["".join("泵" if character.isspace() else character for character in text) for text in texts]
    documents = [
        Document(str(number), text, (Span(0, 1, "EQUIP"), Span(1, len(text), "FAULT")))
        for number, text in enumerate(texts, start=1)
    ]
    write_documents(tmp_path / "data", documents, name)
    assert read_documents(tmp_path / "data", name) == documents


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ccks2019", '{"originalText": "换3号泵", "entities": [{"label_type": "E", "start_pos": 1, "end_pos": 4}]}'),
        ("ccks2020", '{"originalText": "换3号泵", "entities": [{"label_type": "E", "start_pos": 2, "end_pos": 4}]}'),
        ("cluener", '{"text": "换3号泵", "label": {"E": {"3号泵": [[1, 3]]}}}'),
        ("doccano", '{"text": "换3号泵", "label": [[1, 4, "E"]]}'),
        ("doccano", '{"data": "换3号泵", "labels": [[1, 4, "E"]]}'),
        ("doccano", '{"text": "换3号泵", "entities": [{"id": 7, "label": "E", "start_offset": 1, "end_offset": 4}]}'),
        (
            "label-studio",
            '[{"id": 1, "data": {"text": "换3号泵"}, "annotations": [{"was_cancelled": true, "result": []},'
            '{"result": [{"type": "labels", "value": {"start": 1, "end": 4, "labels": ["E"]}},'
            '{"type": "choices", "value": {}}]}]}]',
        ),
    ],
)  # fmt: skip
def test_offset_conventions_of_others_end_in_ours(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "data").write_text(content, encoding="utf-8")
    (document,) = read_documents(tmp_path / "data", name)
    assert (document.text, document.spans) == ("换3号泵", (Span(1, 4, "E"),))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "ccks2020",
            '{"originalText": "泵", "entities": [{"label_type": "E", "start_pos": 0, "end_pos": 1}]}',
            "lies outside",
        ),
        (
            "ccks2019",
            '{"originalText": "泵", "entities": [{"start_pos": 0, "end_pos": 1}]}',
            r"entities\[0\].label_type",
        ),
        ("cluener", '{"text": "换泵", "label": {"E": {"泵": [[0, 0]]}}}', "field 'label.E': the text from 0 to 0"),
        ("doccano", '{"text": "换泵", "label": [[1, "E"]]}', r"label\[0\]': not a \[start, end, label\]"),
        ("label-studio", '[{"data": {"a": "x", "b": "y"}}]', r"tasks\[0\].data': no 'text'"),
        ("label-studio", "[", "not valid JSON"),
    ],
)  # fmt: skip
def test_a_mistake_in_another_format_is_named_with_its_field(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / "data").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_documents(tmp_path / "data", name)


def test_brat_names_the_line_and_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("换泵", encoding="utf-8")
    for line, message in (("T1\tE 0 1;1 2\t换 泵", "discontinuous"), ("T1\tE 0 1\t泵", "not the text's slice")):
        (tmp_path / "1.ann").write_text(f"R1\tx\n{line}\n", encoding="utf-8")
        with pytest.raises(DataError, match=f"1.ann:2: .*{message}"):
            read_documents(tmp_path, "brat")
    with pytest.raises(DataError, match="no file name"):
        write_documents(tmp_path / "out", [Document("../x", "泵")], "brat")
    assert not (tmp_path / "out").exists()


def test_cutting_sentences_loses_nothing_and_never_cuts_an_entity() -> None:
    text = "一号泵。坏了。“甲。乙”停"
    document = Document("r", text, (Span(0, 3, "E"), Span(8, 11, "E")))
    sentences = cut_sentences(document)
    assert "".join(sentence.text for sentence in sentences) == text
    assert [(s.id, s.text, s.spans) for s in sentences] == [
        ("r#0", "一号泵。", (Span(0, 3, "E"),)),
        ("r#1", "坏了。", ()),
        ("r#2", "“甲。乙”停", (Span(1, 4, "E"),)),
    ]
    assert cut_sentences(Document("one", "泵。")) == [Document("one", "泵。")]


def test_the_convert_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_documents(tmp_path / "a.jsonl", DOCUMENTS)
    assert main(["convert", str(tmp_path / "a.jsonl"), str(tmp_path / "b.bmes")]) == 0
    assert "2 texts, 2 entities (EQUIP 1, FAULT 1)" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "b.bmes"), str(tmp_path / "c"), "--to", "brat"]) == 0
    assert read_documents(tmp_path / "c", "brat") == DOCUMENTS
    assert main(["convert", str(tmp_path / "a.jsonl"), str(tmp_path / "d.xlsx")]) == 1
    assert "unknown format" in capsys.readouterr().err


def test_a_docbin_of_words_is_read_by_characters(tmp_path: Path) -> None:
    from spacy.tokens import Doc, DocBin
    from spacy.tokens import Span as SpacySpan
    from spacy.vocab import Vocab

    doc = Doc(Vocab(), words=["换", "M16", "螺栓"], spaces=[False, True, False])
    doc.set_ents([SpacySpan(doc, 1, 3, label="PART")])
    DocBin(docs=[doc]).to_disk(tmp_path / "a.spacy")
    assert read_documents(tmp_path / "a.spacy") == [Document("1", "换M16 螺栓", (Span(1, 7, "PART"),))]


def test_what_is_no_docbin_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    import pickle
    import zlib

    import srsly

    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (marker,)  # type: ignore[return-value]

    file = tmp_path / "a.spacy"
    pickled = pickle.dumps(Evil())
    for content in (b"", b"text", pickled, zlib.compress(pickled), zlib.compress(srsly.msgpack_dumps({"attrs": []}))):
        file.write_bytes(content)
        with pytest.raises(DataError, match="a.spacy: not a spaCy DocBin"):
            read_documents(file)
    assert not marker.exists()
    with pytest.raises(DataError, match="no such file"):
        read_documents(tmp_path / "none.spacy")


def test_without_spacy_it_says_which_extra_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    monkeypatch.setitem(sys.modules, "spacy.tokens", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'smallm\[spacy\]'"):
        write_documents(tmp_path / "a.spacy", DOCUMENTS)
    assert not (tmp_path / "a.spacy").exists()
