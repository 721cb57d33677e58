from __future__ import annotations

from pathlib import Path

import pytest

from smallm.documents import Document, Span
from smallm.errors import DataError
from smallm.formats import read_documents, write_documents

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
            r"entities\[0\].end': missing or not int",
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
