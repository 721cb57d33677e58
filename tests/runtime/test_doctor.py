"""`smallm doctor` on healthy and ailing sites: what it says, how to mend it, and its exit status."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from smallm_runtime import tokens
from smallm_runtime.tokens import Scope

from smallm import signing
from smallm.cli import main
from tests.runtime.pki import Authority


@contextmanager
def models(status: int, value: object) -> Iterator[str]:
    """An endpoint that answers every GET like this; its base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@pytest.fixture
def site(bundle_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """Settings of a server in good health, as they would be in a file."""
    folder = Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))
    public = signing.keygen(tmp_path / "ours")
    signing.sign((folder / "manifest.json").read_bytes(), tmp_path / "ours", folder / "manifest.sig")
    pair = Authority(tmp_path).issue("server", days=100)
    pair.key.chmod(0o600)
    tokens.write(tmp_path / "tokens", [tokens.new("line", [Scope.RECOGNISE])[1]])
    return {
        "bundle": folder,
        "listen": "127.0.0.1:0",
        "trusted-keys": public,
        "tls-certificate": pair.certificate,
        "tls-key": pair.key,
        "auth-tokens": tmp_path / "tokens",
        "answers": tmp_path / "answers.sqlite",
    }


def doctor(site: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Exit status and findings by level."""
    told = [f"--{name}={value}" for name, value in site.items() if name != "bundle"]
    signed = ["--require-signature"] if "trusted-keys" in site else []
    status = main(["doctor", str(site["bundle"]), *told, *signed, "--json"])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return status, {level: [one for one in found if one["level"] == level] for level in ("ok", "warning", "failure")}


def test_a_site_in_good_health(site: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    listed = {"object": "list", "data": [{"id": "qwen", "object": "model", "created": 0, "owned_by": ""}]}
    with models(200, listed) as url:
        status, found = doctor(site | {"llm-url": url, "llm-model": "qwen"}, capsys)
    assert status == 0 and not found["failure"]
    assert {"settings", "machine", "bundle", "certificate", "tokens", "network", "store", "llm.endpoint[0]"} <= {
        one["subject"] for one in (*found["ok"], *found["warning"])
    }
    assert {one["subject"] for one in found["warning"]} <= {"machine", "clock"}
    assert main(["doctor", str(site["bundle"]), "--listen", "127.0.0.1:0"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("ok   settings: read") and "-> smallm bundle sign" in out


def _alter(site: dict[str, Any]) -> None:
    file = site["bundle"] / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:-2] + b" }")


def _foreign_key(site: dict[str, Any]) -> None:
    signing.keygen(site["trusted-keys"].with_name("theirs"))
    site["trusted-keys"] = site["trusted-keys"].with_name("theirs.pub")


def _expired(site: dict[str, Any]) -> None:
    pair = Authority(site["tls-key"].parent, "other").issue("old", days=-1)
    site |= {"tls-certificate": pair.certificate, "tls-key": pair.key}


def _no_tokens(site: dict[str, Any]) -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    tokens.write(site["auth-tokens"], [tokens.new("line", [Scope.RECOGNISE], past)[1]])


def _future(site: dict[str, Any]) -> None:
    os.utime(site["bundle"] / "encoder.int8.onnx", (time.time() + 1e6,) * 2)


@pytest.mark.parametrize(
    ("harm", "subject", "message", "mend"),
    [
        (_alter, "bundle", "tokenizer.json was altered", "copy it again"),
        (_foreign_key, "bundle", "signed by", "copy it again"),
        (_expired, "certificates", "expired on", ""),
        (_no_tokens, "tokens", "no valid token may recognise", "smallm token new"),
        (lambda site: site["auth-tokens"].chmod(0o666), "tokens", "everybody", "chmod o-w"),
        (_future, "clock", "was written", "set the clock"),
        (lambda site: site.update(answers=site["auth-tokens"] / "s.sqlite"), "store", "", ""),
        (lambda site: site["tls-key"].write_bytes(b"x"), "certificates", "no unencrypted private key", ""),
        (lambda site: site.update(device="cuda"), "machine", "has no CUDAExecutionProvider", "smallm[gpu]"),
    ],
)
def test_what_keeps_a_server_from_serving_is_a_failure_with_its_cure(
    site: dict[str, Any],
    harm: Callable[[dict[str, Any]], None],
    subject: str,
    message: str,
    mend: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    harm(site)
    status, found = doctor(site, capsys)
    assert status == 1
    assert any(
        one["subject"] == subject and message in one["message"] and mend in one["mend"] for one in found["failure"]
    ), found["failure"]


def test_an_llm_in_trouble_is_a_warning(site: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    def told(url: str) -> str:
        status, found = doctor(site | {"llm-url": url, "llm-model": "absent"}, capsys)
        assert status == 0
        (one,) = [one for one in found["warning"] if one["subject"] == "llm.endpoint[0]"]
        assert one["mend"]
        return one["message"]

    assert "is silent" in told("http://127.0.0.1:1/v1")
    listed = {"object": "list", "data": [{"id": "other", "object": "model", "created": 0, "owned_by": ""}]}
    for status, value, message in (
        (401, {}, "refuses the lack of a key"),
        (500, {}, "answers 500"),
        (200, listed, "has no model 'absent'"),
        (200, "<html>", "nonsense"),
    ):
        with models(status, value) as url:
            assert message in told(url)


def test_a_mistake_in_the_settings_is_the_first_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.toml").write_text("[limits]\ncalls = 0")
    assert main(["doctor", str(tmp_path), "--config", str(tmp_path / "s.toml")]) == 1
    assert "FAIL settings" in (out := capsys.readouterr().out) and "s.toml:2" in out
