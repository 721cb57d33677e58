"""`smallm tune`: what it writes is what the server reads, and is no part of the bundle."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from smallm_runtime import loading, profile, tune
from smallm_runtime.profile import Profile
from smallm_runtime.server import Settings

from smallm import bundle
from smallm.cli import main
from smallm.client import Client
from smallm.errors import ArtifactError, DataError
from tests.conftest import EXAMPLES
from tests.runtime.servers import serving


@pytest.fixture
def copy(bundle_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_folder, tmp_path / "copy"))


def test_the_profile_lies_beside_the_bundle_which_stays_as_it_was_and_the_server_uses_it(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = bundle.read(copy).files
    monkeypatch.setattr(tune, "ROUNDS", 1)
    assert main(["tune", str(copy), "--texts", str(EXAMPLES / "test.jsonl"), "--seconds", "0.01"]) == 0
    assert "texts/s" in capsys.readouterr().out
    file = copy.with_name("copy.profile.json")
    written = json.loads(file.read_text())
    chosen = profile.read(copy)
    assert chosen is not None and len(written["measured"]) > 10 and written["profile"] == asdict(chosen)
    assert bundle.read(copy).files == before
    written["profile"]["round_tokens"] = 300
    file.write_text(json.dumps(written))
    engine = loading.load(copy, loading.fingerprint(copy), None, "cpu")
    assert engine.profile.round_tokens == 300
    with serving(Settings(copy)) as where, Client(where) as client:
        assert client.recognize("3号泵漏油", llm_mode="off").domain


def test_a_profile_of_another_machine_or_bundle_is_not_used(
    copy: Path, bundle_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = profile.default_file(copy)
    for field, value in (("cpus", 96), ("cpu", "another"), ("bundle", "0" * 64)):
        profile.write(file, copy, Profile(threads=7), [])
        assert profile.read(copy) == Profile(threads=7)
        changed = json.loads(file.read_text()) | {field: value}
        file.write_text(json.dumps(changed))
        assert profile.read(copy) is None and f"another {field}" in caplog.text
    assert profile.read(bundle_folder) is None


@pytest.mark.parametrize(
    "content", ["[]", '{"format": 1}', '{"format": 1, "profile": {"threads": 0}}', '{"format": 1, "profile": {"x": 1}}']
)
def test_a_damaged_profile_is_refused(copy: Path, content: str) -> None:
    profile.default_file(copy).write_text(content)
    with pytest.raises(ArtifactError):
        profile.read(copy)


def test_texts_are_spread_over_the_file() -> None:
    texts = tune.spread([f"泵{number}" for number in range(1000)], Path("texts.txt"))
    assert len(texts) == tune.TEXTS and texts[0] == "泵0" and int(texts[-1][1:]) > 700
    with pytest.raises(DataError, match="texts.txt"):
        tune.spread([" "], Path("texts.txt"))


def test_where_nobody_measured_a_small_encoder_shares_out_rounds_and_a_large_one_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profile, "available_cpus", lambda: 3)
    assert [(one.threads, one.parallel) for one in (profile.untuned(256, "cpu"), profile.untuned(768, "cpu"))] == [
        (1, 3),
        (profile.Profile().threads, 1),
    ]
    assert profile.untuned(256, "cuda").call_tokens == profile.Profile().round_tokens
