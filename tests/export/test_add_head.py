"""Canaries of a bundle, and a domain added to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from smallm_runtime import loading
from smallm_runtime.canaries import verify_canaries
from smallm_runtime.engine import Engine, Item

from smallm import bundle
from smallm.cli import main
from smallm.errors import LoadError
from tests.conftest import SampleDomain


def test_a_bundle_answers_its_canaries_and_one_that_does_not_is_not_served(bundle_folder: Path, tmp_path: Path) -> None:
    engine = Engine.load(bundle_folder)
    (domain,) = engine.manifest.domains.values()
    assert len(domain.canaries) >= 6 and verify_canaries(engine) == []
    assert any(one["answer"] for one in domain.canaries) and any(one["entities"] for one in domain.canaries)
    copy = tmp_path / "copy"
    shutil.copytree(bundle_folder, copy)
    domain.canaries[0]["confidence"]["int8"] += 0.2
    domain.canaries[1]["entities"] = [[0, 1, "EQUIP"], [1, 2, "PART"]]
    bundle.seal(copy, engine.manifest)
    said = verify_canaries(Engine.load(copy))
    assert len(said) == 2 and "canary 0: confidence" in said[0] and "entities missing" in said[1]
    with pytest.raises(LoadError) as caught:
        loading.load(copy, loading.fingerprint(copy), 1, "cpu")
    assert caught.value.reason == "CANARY_FAILED"


def test_a_domain_is_added_and_the_old_one_answers_as_before(
    model_folder: Path,
    bundle_folder: Path,
    sample: SampleDomain,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second, out = tmp_path / "second", tmp_path / "out"
    shutil.copytree(model_folder, second)
    card = json.loads((second / "model.json").read_text())
    assert main(["bundle", "add-head", str(bundle_folder), str(second)]) == 1
    assert "has a domain 'work_orders' already" in capsys.readouterr().err
    (second / "model.json").write_text(json.dumps({**card, "domain": "second"}))
    assert main(["bundle", "add-head", str(bundle_folder), str(second), "--out", str(out), "--no-gate"]) == 0
    assert main(["bundle", "show", str(out)]) == 0
    assert "domain 'second'" in capsys.readouterr().out
    before, after = Engine.load(bundle_folder), Engine.load(out)
    assert after.domains == ["work_orders", "second"] and verify_canaries(after) == []
    texts = [document.text for document in sample.test[:10]]
    expected = before.recognize([Item(text) for text in texts])
    calls: list[int] = []
    encode = after._encode

    def counted(parts: Sequence[Sequence[int]]) -> list[Any]:
        calls.append(len(parts))
        return list(encode(parts))

    monkeypatch.setattr(after, "_encode", counted)
    found = after.recognize([Item(text, name) for text in texts for name in after.domains])
    assert found[::2] == expected and sum(calls) == len(set(texts))  # one encoder run for both domains
