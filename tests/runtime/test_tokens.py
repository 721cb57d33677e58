"""Tokens: made, found, expired, rotated; and files that are none."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from smallm_runtime import tokens, watched
from smallm_runtime.tokens import Scope, Tokens

from smallm.cli import main
from smallm.errors import DataError


def test_a_token_is_shown_once_found_by_its_hash_and_revoked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tokens.toml"
    for name in ("line-3", "reloader"):
        scope = "admin" if name == "reloader" else "recognise"
        assert main(["token", "new", name, "--scope", scope, "--file", str(file)]) == 0
    first, second = capsys.readouterr().out.split()
    assert re.fullmatch(r"smallm_[\w-]{43}", first) and first != second
    assert first not in file.read_text() and "sha256:" in file.read_text()
    found = Tokens.load(file).find(first)
    assert found and (found.name, found.scopes) == ("line-3", (Scope.RECOGNISE,))
    assert main(["token", "new", "line-3", "--scope", "admin", "--file", str(file)]) == 1
    assert main(["token", "list", "--file", str(file)]) == 0
    assert "reloader  admin" in capsys.readouterr().out
    assert main(["token", "revoke", "line-3", "--file", str(file)]) == 0
    assert Tokens.load(file).find(first) is None and Tokens.load(file).find(second)
    assert main(["token", "revoke", "line-3", "--file", str(file)]) == 1


def test_what_is_no_token_is_not_found(tmp_path: Path) -> None:
    secret, token = tokens.new("a", [Scope.ADMIN])
    tokens.write(tmp_path / "t", [token])
    found = Tokens.load(tmp_path / "t")
    assert found.find(secret) == token
    for other in ("", secret[:-1], secret + " ", secret.upper(), token.hash, "\udcff", "泵" * 10_000):
        assert found.find(other) is None


def test_an_expired_token_is_none(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    past, gone = tokens.new("past", [Scope.ADMIN], now - timedelta(seconds=1))
    ahead, good = tokens.new("ahead", [Scope.ADMIN], now + timedelta(days=2))
    tokens.write(tmp_path / "t", [gone, good])
    found = Tokens.load(tmp_path / "t")
    assert found.find(past) is None and found.find(ahead) == good
    text = re.sub(r'expires = ".*?"', "expires = 2026-01-01", (tmp_path / "t").read_text(), count=1)
    (tmp_path / "t").write_text(text)
    assert tokens.read(tmp_path / "t")[0].expired(datetime(2026, 1, 1, tzinfo=UTC))


def test_a_changed_file_is_in_force_and_a_bad_or_missing_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "EVERY_S", 0.0)
    file, (first, one), (second, two) = (
        tmp_path / "t",
        tokens.new("one", [Scope.ADMIN]),
        tokens.new("two", [Scope.ADMIN]),
    )
    tokens.write(file, [one])
    found = Tokens.load(file)
    tokens.write(file, [one, two])
    assert found.find(first) == one and found.find(second) == two
    file.write_text("[[token]]\nname = 3")
    assert found.find(second) == two
    assert "stays in force" in caplog.text and first not in caplog.text
    file.unlink()
    assert found.find(second) == two
    tokens.write(file, [two])
    os.utime(file, ns=(1, 1))
    assert found.find(first) is None and found.find(second) == two


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[token]]\nname = 'a'\nhash = 'secret'\nscopes = ['admin']", r"t.toml:3: field 'token\[0\].hash'"),
        (
            "[[token]]\nname = 'a'\nscopes = ['root']\nhash = 'sha256:" + "0" * 64 + "'",
            r"t.toml:3: field 'token\[0\].scopes",
        ),
        ("[[token]]\nname = 'a'\nscopes = []\nhash = 'sha256:" + "0" * 64 + "'", r"t.toml:3: field"),
        ("[[token]]\nname = 'a b'\n", r"t.toml:2: field 'token\[0\].name'"),
        ("tokens = []", "field 'tokens'"),
        ("[[token]]\nname = 'a'\nhash = 'sha256:H'\nscopes = ['admin']\n".replace("H", "0" * 64) * 2, "same name"),
    ],
)
def test_a_file_that_is_none_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "t.toml"
    file.write_text(text)
    with pytest.raises(DataError, match=told) as caught:
        Tokens.load(file)
    assert "secret" not in str(caught.value)
