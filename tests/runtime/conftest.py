"""One server for the tests that need no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from smallm_runtime.server import Settings

from smallm.cli import main
from smallm.llm.settings import BridgeSettings
from tests.conftest import SampleDomain
from tests.runtime.servers import serving


@pytest.fixture(scope="session")
def store(sample: SampleDomain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("store") / "answers.sqlite"
    assert main(["llm", "import", str(sample.answers), "--store", str(file)]) == 0
    return file


@pytest.fixture(scope="session")
def address(bundle_folder: Path, store: Path) -> Iterator[str]:
    with serving(Settings(bundle_folder, bridge=BridgeSettings(store=str(store)))) as where:
        yield where
