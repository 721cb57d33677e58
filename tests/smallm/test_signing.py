"""Signed bundles through the command, and what does not pass for one."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest

from smallm import bundle, signing
from smallm.cli import main
from smallm.errors import ArtifactError


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    assert main(["bundle", "keygen", str(folder / name)]) == 0
    return folder / name, folder / f"{name}.pub"


@pytest.fixture
def copy(bundle_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_folder, tmp_path / "copy"))


def test_sign_and_verify_by_two_keys_one_of_them_trusted(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = keys(tmp_path, "ours"), keys(tmp_path, "theirs")
    assert stat.S_IMODE(ours[0].stat().st_mode) == 0o600
    assert main(["bundle", "verify", str(copy)]) == 0
    assert main(["bundle", "verify", str(copy), "--trusted", str(ours[1])]) == 1
    assert "not signed" in capsys.readouterr().err
    for private, _ in (theirs, ours, ours):
        assert main(["bundle", "sign", str(copy), "--key", str(private)]) == 0
    assert len(json.loads((copy / bundle.SIGNATURES).read_text())["signatures"]) == 2
    capsys.readouterr()
    assert main(["bundle", "verify", str(copy), "--trusted", str(ours[1])]) == 0
    assert signing.key_id(signing.public_key(ours[1])) in capsys.readouterr().out
    assert bundle.read(copy, trusted=[theirs[1]]) == bundle.read(copy)


def test_a_key_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    private, _ = keys(tmp_path, "ours")
    before = private.read_bytes()
    assert main(["bundle", "keygen", str(private)]) == 1
    assert private.read_bytes() == before and "no key is ever overwritten" in capsys.readouterr().err


def test_every_altered_byte_of_a_signed_bundle_is_noticed(copy: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path, "ours")
    signing.sign((copy / bundle.MANIFEST).read_bytes(), private, copy / bundle.SIGNATURES)
    manifest = copy / bundle.MANIFEST
    good = manifest.read_bytes()
    value = json.loads(good)
    for altered in (good + b"\n", json.dumps(value).encode(), good.replace(b'"sha256"', b'"Sha256"', 1), b"[]"):
        manifest.write_bytes(altered)
        with pytest.raises(ArtifactError, match="is not of this manifest"):
            bundle.read(copy, trusted=[public])
    manifest.write_bytes(good)
    (copy / "tokenizer.json").write_bytes((copy / "tokenizer.json").read_bytes() + b" ")
    with pytest.raises(ArtifactError, match="tokenizer.json has"):
        bundle.read(copy, trusted=[public])


def test_a_signature_by_another_key_or_under_anothers_name_is_none(copy: Path, tmp_path: Path) -> None:
    (ours, public), (theirs, _) = keys(tmp_path, "ours"), keys(tmp_path, "theirs")
    raw, signatures = (copy / bundle.MANIFEST).read_bytes(), copy / bundle.SIGNATURES
    signing.sign(raw, theirs, signatures)
    with pytest.raises(ArtifactError, match="signed by .*, trusted are"):
        bundle.read(copy, trusted=[public])
    value = json.loads(signatures.read_text())
    (forged,) = value["signatures"].values()
    value["signatures"] = {signing.key_id(signing.public_key(public)): forged}
    signatures.write_text(json.dumps(value))
    with pytest.raises(ArtifactError, match="is not of this manifest"):
        bundle.read(copy, trusted=[public])
    signing.sign(b"another manifest", ours, signatures)
    with pytest.raises(ArtifactError, match="is not of this manifest"):
        bundle.read(copy, trusted=[public])


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 1, "manifest": "", "signatures": {"a": 1}}', "[" * 9999]
)
def test_a_damaged_signature_file_and_a_wrong_key_file_are_refused(tmp_path: Path, content: str) -> None:
    _, public = keys(tmp_path, "ours")
    (tmp_path / "manifest.sig").write_text(content)
    with pytest.raises(ArtifactError, match="no signatures can be read"):
        signing.verify(b"", tmp_path / "manifest.sig", [public])
    with pytest.raises(ArtifactError, match="not a key"):
        signing.public_key(tmp_path / "manifest.sig")
    with pytest.raises(ArtifactError, match="cannot be read"):
        signing.public_key(tmp_path / "none.pub")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"format": 2, "format": 2}', "occurs twice"),
        ("[" * 100_000, "too deeply|not valid"),
        ("\udcff", "not valid JSON"),
        ("3", "format None"),
        ("{", "not valid JSON"),
    ],
)
def test_a_manifest_that_is_no_plain_json_object_is_refused(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArtifactError, match=told):
        bundle.read(tmp_path)
