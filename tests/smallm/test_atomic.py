from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from smallm import atomic


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    atomic.write_json(file, {"old": True})
    with pytest.raises(RuntimeError), atomic.new_file(file) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(file.read_text()) == {"old": True}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for name in ("one", "two"):
        with atomic.new_directory(folder) as temporary:
            (temporary / name).touch()
    assert [entry.name for entry in folder.iterdir()] == ["two"]
    with pytest.raises(RuntimeError), atomic.new_directory(folder) as temporary:
        (temporary / "half").touch()
        raise RuntimeError
    assert [entry.name for entry in folder.iterdir()] == ["two"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_others_can_read_what_was_written(tmp_path: Path) -> None:
    with atomic.new_directory(tmp_path / "model") as temporary:
        (temporary / "file").touch(0o600)
    assert stat.S_IMODE((tmp_path / "model" / "file").stat().st_mode) & 0o040
