"""The contract's checks: they pass, and they would not if the contract broke a rule or a client."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROTO = Path(__file__).parents[1] / "proto"


@pytest.fixture(scope="module")
def check() -> Any:
    sys.path.insert(0, str(PROTO))
    try:
        yield importlib.import_module("check")
    finally:
        sys.path.remove(str(PROTO))


@pytest.fixture
def complaints(check: Any, tmp_path: Path) -> Callable[[str, str], str]:
    """What is said when `old` becomes `new` in the contract."""

    def altered(old: str, new: str) -> str:
        source = (PROTO / "smallm/ner/v1/ner.proto").read_text(encoding="utf-8")
        assert old in source
        copy = tmp_path / "smallm/ner/v1/ner.proto"
        copy.parent.mkdir(parents=True)
        copy.write_text(source.replace(old, new), encoding="utf-8")
        image = tmp_path / "image.binpb"
        check.build(image, [tmp_path, *check.INCLUDES])
        return str(check.complaints(image))

    return altered


def test_the_contract_has_nothing_against_it(complaints: Callable[[str, str], str]) -> None:
    assert complaints("service NerService", "service NerService") == ""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("string domain = 2;", "string domain = 9;", "Previously present field"),
        ("int32 start = 1;", "int64 start = 1;", "changed type"),
        ("rpc ListDomains(", "rpc GetDomains(", "Previously present RPC"),
        ("ERROR_REASON_OVERLOADED = ", "ERROR_REASON_FULL = ", "changed name"),
        ("message Provenance {", "message Provenance {\n  string camelCase = 9;", "lower_snake_case"),
    ],
)
def test_what_breaks_a_client_or_a_rule_is_told(
    complaints: Callable[[str, str], str], old: str, new: str, told: str
) -> None:
    assert told in complaints(old, new)
