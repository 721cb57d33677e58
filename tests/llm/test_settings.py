"""One TOML file: what it may say, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from smallm.errors import DataError
from smallm.llm.settings import BridgeSettings, Mode, load

GOOD = """
mode = "when_uncertain"
store = "answers.sqlite"
[[endpoint]]
url = "http://llm.local/v1/"
model = "m"
key_file = "key"
extra_body = { chat_template_kwargs = { enable_thinking = false } }
[privacy]
patterns = { badge = '工号\\d+' }
dictionaries = ["names.txt"]
[demonstrations."设备维修工单"]
train = "train.jsonl"
"""


def test_a_file_is_read_with_paths_beside_it_and_flags_come_first(tmp_path: Path) -> None:
    file = tmp_path / "llm.toml"
    file.write_text(GOOD)
    settings = load(file, mode="off", endpoint=None)
    assert (settings.mode, settings.store) == (Mode.OFF, str(tmp_path / "answers.sqlite"))
    (endpoint,) = settings.endpoint
    assert endpoint.url == "http://llm.local/v1" and endpoint.key_file == tmp_path / "key"
    assert endpoint.asks.extra == '{"chat_template_kwargs": {"enable_thinking": false}}'
    assert settings.privacy.dictionaries == (tmp_path / "names.txt",)
    assert settings.demonstrations["设备维修工单"].train == tmp_path / "train.jsonl"
    assert load(file, store="elsewhere").store == "elsewhere"
    with pytest.raises(DataError, match=r"key: cannot be read"):
        endpoint.api_key()


def test_defaults_ask_nobody_and_mask_every_kind() -> None:
    settings = load(None)
    assert settings == BridgeSettings() and settings.endpoint == () and len(settings.privacy.redact) == 6
    assert settings.hedge_after_s == 0 and not settings.limits.any


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mode = 3", "field 'mode'"),
        ("[[endpoint]]\nurl = 'http://x/v1'", r"field 'endpoint\[0\].model'"),
        ("[[endpoint]]\nurl = 'http://x/v1'\nmodel = 'm'\nkey = 'topsecret'", r"field 'endpoint\[0\].key'"),
        ("[[endpoint]]\nurl = 'http://u:topsecret@x/v1'\nmodel = 'm'", "no user, password or query"),
        ("[[endpoint]]\nurl = 'ftp://x'\nmodel = 'm'", "http:// or https://"),
        ("store = 'redis://:topsecret@x/0'", "SMALLM_REDIS_PASSWORD"),
        ("[privacy]\nredact = ['phones']", "'phones' is none of"),
        ("[privacy]\npatterns = { a = '(' }", "no regular expression"),
        ("[privacy]\nallow = ['.*']", "matches nothing at all"),
        ("[limits]\ncalls_per_day = -1", "field 'limits.calls_per_day'"),
        ("threshold = 2", "field 'threshold'"),
        ("mode == 3", "not valid TOML.*line 1"),
    ],
)
def test_a_bad_file_is_named_with_its_field_and_shows_no_secret(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "llm.toml"
    file.write_text(text)
    with pytest.raises(DataError, match=told) as caught:
        load(file)
    assert "llm.toml" in str(caught.value) and "topsecret" not in str(caught.value)
