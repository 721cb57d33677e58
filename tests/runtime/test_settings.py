"""The server's settings: precedence, where a mistake is, what is shown, and that the documents say the same."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
from smallm_runtime import command, sources
from smallm_runtime.settings import Settings, is_local

from smallm.cli import main
from smallm.errors import DataError

DOCS = Path(__file__).parents[2] / "docs" / "operations.md"
FULL = """\
bundle = "bundles/current"
listen = "0.0.0.0:50051"
require_signature = true
trusted_keys = ["keys/a.pub", "/abs/b.pub"]

[tls]
certificate = "server.pem"
key = "server.key"

[limits]
calls = 10

[llm]
mode = "cached_only"
store = "answers.sqlite"

[llm.privacy]
audit = "audit.jsonl"

[[llm.endpoint]]
url = "http://llm.local/v1"
model = "qwen"
key_file = "llm.key"
extra_body = { top_k = 1, api_key = "topsecret" }
"""


def write(folder: Path, text: str, name: str = "smallm.toml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(argv)


def test_flags_come_before_environment_before_file_before_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(
        tmp_path, 'bundle = "b"\nthreads = 1\nnotice_s = 1.5\n[limits]\ncalls = 1\nstreams = 1\n[log]\nlevel = "error"'
    )
    monkeypatch.setenv("SMALLM_LIMITS_CALLS", "2")
    monkeypatch.setenv("SMALLM_THREADS", "2")
    monkeypatch.setenv("SMALLM_LLM_MODE", "off")
    monkeypatch.setenv("SMALLM_REFLECTION", "false")
    monkeypatch.setenv("SMALLM_BESIDE", "x,y")
    found = command.read_settings(parse("--config", str(file), "--threads", "3", "--log-format", "json"))
    told = found.settings
    assert (told.threads, told.limits.calls, told.limits.streams, told.limits.batch_items) == (3, 2, 1, 256)
    assert (told.notice_s, told.log.level, told.log.format, told.reflection) == (1.5, "error", "json", False)
    assert told.bridge.mode == "off"
    assert told.beside == (Path.cwd() / "x", Path.cwd() / "y")
    assert found.origins["threads",] == "--threads" and found.origins["limits", "calls"] == "SMALLM_LIMITS_CALLS"
    assert found.origins["limits", "streams"] == str(file)


def test_paths_in_a_file_are_relative_to_it_and_others_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, FULL)
    monkeypatch.chdir("/")
    told = sources.load(file, {"SMALLM_TLS_KEY": "other.key"}, {}).settings
    assert told.bundle == tmp_path / "bundles" / "current"
    assert told.trusted_keys == (tmp_path / "keys" / "a.pub", Path("/abs/b.pub"))
    assert (told.tls.certificate, told.tls.key) == (tmp_path / "server.pem", Path("/other.key"))
    assert told.bridge.store == str(tmp_path / "answers.sqlite")
    assert told.bridge.endpoint[0].key_file == tmp_path / "llm.key"
    assert told.bridge.privacy.audit == tmp_path / "audit.jsonl"
    assert sources.load(file, {}, {("llm", "store"): "s.sqlite"}).settings.bridge.store == "/s.sqlite"


def test_the_llm_may_have_a_file_of_its_own_but_not_two(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    llm = write(tmp_path / "a", 'store = "s.sqlite"\nwait_s = -1', "llm.toml")
    with pytest.raises(DataError, match=r"llm.toml:2: field 'llm.wait_s'"):
        sources.load(write(tmp_path, 'bundle = "b"'), {}, {}, llm)
    write(tmp_path / "a", 'store = "s.sqlite"', "llm.toml")
    assert sources.load(tmp_path / "smallm.toml", {}, {}, llm).settings.bridge.store == str(tmp_path / "a" / "s.sqlite")
    with pytest.raises(DataError, match="keep one"):
        sources.load(write(tmp_path, FULL), {}, {}, llm)


@pytest.mark.parametrize(
    ("text", "environment", "flags", "told"),
    [
        ("[limits]\ncalls = 0", {}, {}, r"smallm.toml:2: field 'limits.calls': .*greater than 0"),
        ("\n[limits]\n# few\n\ncals = 3", {}, {}, r"smallm.toml:5: field 'limits.cals': .*Extra inputs"),
        ("bundel = 'x'", {}, {}, r"smallm.toml:1: field 'bundel'"),
        ("[[llm.endpoint]]\nurl='http://a/v1'\nmodel='a'\n[[llm.endpoint]]\nurl='http://u:topsecret@b'\nmodel='b'",
         {}, {},
         r"smallm.toml:5: field 'llm.endpoint\[1\].url': must hold no user"),
        ("[tls]\ncertificate = 'c.pem'", {}, {}, r"smallm.toml:1: field 'tls': give certificate and key together"),
        ("tls = 3", {"SMALLM_TLS_KEY": "k"}, {}, r"smallm.toml:1: field 'tls'"),
        ("", {"SMALLM_LIMITS_CALLS": "many"}, {}, r"SMALLM_LIMITS_CALLS: field 'limits.calls'"),
        ("", {"SMALLM_DEVICE": "tpu"}, {}, r"SMALLM_DEVICE: field 'device': must be one of"),
        ("", {}, {("listen",): "50051"}, r"--listen: field 'listen': must be HOST:PORT"),
        ("", {}, {("auth", "open_health"): "maybe"}, r"--auth-open-health: field 'auth.open_health'"),
        ("require_signature = true", {}, {}, "give require_signature and trusted_keys together"),
        ("[[limits]]\ncalls = 1", {}, {}, r"smallm.toml:1: field 'limits'"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_source_line_and_field(
    tmp_path: Path, text: str, environment: dict[str, str], flags: dict[tuple[str, ...], Any], told: str
) -> None:
    file = write(tmp_path, text)
    with pytest.raises(DataError, match=told) as caught:
        sources.load(file, environment, {("bundle",): "b"} | flags)
    assert "topsecret" not in str(caught.value)


def test_without_tls_only_this_machine_is_listened_to_unless_told(tmp_path: Path) -> None:
    for address in ("127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/run/smallm.sock", "127.8.8.8:0"):
        assert is_local(address) and Settings(tmp_path, address)
    for address in ("0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example:1", "127.0.0.1.example:1", "localhost.example:1"):
        assert not is_local(address)
        with pytest.raises(ValueError, match="insecure_network = true"):
            Settings(tmp_path, address)
        assert Settings(tmp_path, address, insecure_network=True)


def test_what_is_printed_says_the_same_and_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, FULL)
    monkeypatch.setenv("SMALLM_LLM_API_KEY", "topsecret2")
    monkeypatch.setenv("SMALLM_GRACE_S", "3")
    assert main(["serve", "--config", str(file), "--print-config", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "topsecret" not in out and "***" in out
    assert 'device = "cpu"  # --device' in out and "grace_s = 3.0  # SMALLM_GRACE_S" in out
    again = sources.load(write(tmp_path, out.replace('"***"', '"topsecret"'), "printed.toml"), {}, {})
    assert again.settings == sources.load(file, {"SMALLM_GRACE_S": "3"}, {}).settings


def test_every_setting_has_help_a_variable_and_a_flag_of_its_own() -> None:
    leaves = sources.leaves()
    ours = [leaf for leaf in leaves if leaf.flag]
    assert all(leaf.help for leaf in ours)
    assert len({leaf.variable for leaf in leaves}) == len(leaves) and len({leaf.flag for leaf in ours}) == len(ours)
    assert {"SMALLM_LISTEN", "SMALLM_TLS_CLIENT_CA", "SMALLM_LLM_LIMITS_CALLS_PER_DAY"} <= {x.variable for x in leaves}
    assert sources.unknown_variables({"SMALLM_LISTEM": "", "SMALLM_LISTEN": "", "HOME": ""}) == ["SMALLM_LISTEM"]
    assert sources.unknown_variables({"SMALLM_LLM_API_KEY": "x", "SMALLM_CACHE": "x"}) == []


def test_the_table_in_the_documents_is_the_models(tmp_path: Path) -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert sources.markdown() in text, "run: python -c 'from smallm_runtime import sources; print(sources.markdown())'"
    for number, shown in enumerate(re.findall(r"```toml\n(bundle =.*?)```", text, flags=re.DOTALL)):
        sources.load(write(tmp_path, shown, f"{number}.toml"), {}, {})


def test_the_file_to_start_from_is_read() -> None:
    told = sources.load(DOCS.parents[1] / "deploy" / "smallm.toml", {}, {}).settings
    assert told.require_signature and told.tls.certificate and told.auth.tokens


def test_no_bundle_and_a_bad_file_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve"]) == 1
    assert "no bundle to serve" in capsys.readouterr().err
    assert main(["serve", "--config", str(write(tmp_path, "a ="))]) == 1
    assert "smallm.toml: not valid TOML" in capsys.readouterr().err
    assert main(["serve", "--config", str(tmp_path / "none.toml")]) == 1
    assert "cannot be read" in capsys.readouterr().err
