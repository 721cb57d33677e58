"""The view of `smallm recognize` on a terminal."""

from __future__ import annotations

import pytest

from smallm import recognize
from smallm.client import Entity, Result
from smallm.client.answers import Provenance

TEXT = "3号泵漏油\x1b[2J\n下一行"


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    entity = Entity(0, 3, "EQUIP", "3号泵", 0.9, "local")
    result = Result([entity], "d", "absent", "off", {"total_us": 1500}, Provenance("", "", "int8"))
    recognize._show(TEXT, result, {"EQUIP": 36})
    return capsys.readouterr().out


def test_entities_are_marked_in_their_colour(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert shown(capsys).startswith("\x1b[1;4;36m3号泵\x1b[0m漏油")


def test_without_colour_it_is_plain_and_no_text_controls_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    lines = shown(capsys).splitlines()
    assert lines[:2] == ["3号泵漏油\ufffd[2J", "下一行"]
    assert lines[2].split() == ["EQUIP", "3号泵", "[0,", "3)", "0.90", "local"]
    assert lines[3] == "  LLM absent (off), 1.5 ms"
