"""What is masked before a text leaves, and that nothing else about it changes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallm.documents import Span
from smallm.llm.bridge import Answer, Status, absent
from smallm.llm.prompt import Demonstration, EntityType, Prompt
from smallm.llm.reasons import Reason
from smallm.llm.redact import BUILT_IN, Redactor
from smallm.llm.settings import Mode
from tests.fake_llm import FakeLLM, Fault
from tests.llm.bridges import answers, settings, with_bridge


@pytest.mark.parametrize(
    ("text", "masked", "kind"),
    [
        ("联系13812345678处理", "联系00000000000处理", "phone"),
        ("电话138-1234-5678。", "电话000-0000-0000。", "phone"),
        ("拨+8613812345678", "拨+8600000000000", "phone"),
        ("拨010-62345678转", "拨000-00000000转", "phone"),
        ("客服400-123-4567", "客服000-000-0000", "phone"),
        ("电话１３８１２３４５６７８", "电话00000000000", "phone"),
        ("身份证11010519491231002X已核", "身份证00000000000000000X已核", "id"),
        ("旧证130503670401001", "旧证000000000000000", "id"),
        ("发给zhang.san@a-b.com.cn看", "发给XXXXX.XXX@X-X.XXX.XX看", "email"),
        ("控制器192.168.10.254离线", "控制器000.000.00.000离线", "ip"),
        ("端口10.0.0.1:8080不通", "端口00.0.0.0:0000不通", "ip"),
        ("地址fe80::1ff:fe23:4567不通", "地址XX00::0XX:XX00:0000不通", "ip"),
        ("见https://a.cn/x?y=1，谢谢", "见XXXXX://X.XX/X?X=0，谢谢", "url"),
        ("叉车京A12345漏油", "叉车某X00000漏油", "plate"),
        ("新能源沪AD12345停", "新能源某XX00000停", "plate"),
        ("挂车鲁B·1234挂", "挂车某X·0000某", "plate"),
    ],
)
def test_each_kind_is_masked_character_for_character(text: str, masked: str, kind: str) -> None:
    redacted = Redactor().redact(text)
    assert (redacted.text, dict(redacted.counts)) == (masked, {kind: 1})
    assert Redactor([other for other in BUILT_IN if other != kind]).redact(text).counts.get(kind) is None


@pytest.mark.parametrize(
    "text",
    ["更换轴承6205-2RS", "件号4096-0011-02", "压力0.35MPa，电压380V", "2号泵1138次", "LP13812345678A", "版本1.2.3.4.5"],
)
def test_part_numbers_and_values_stay(text: str) -> None:
    assert Redactor().redact(text).text == text


def test_dictionaries_longest_first_and_patterns_of_ones_own() -> None:
    redactor = Redactor((), {"badge": r"工号\d+"}, ["王小", "王小明"])
    redacted = redactor.redact("王小明（工号0072）和王小")
    assert redacted.text == "某某某（某某0000）和某某"
    assert redacted.counts == {"dictionary": 2, "badge": 1} and not redacted.bare


def test_the_allow_list_masks_all_else() -> None:
    redactor = Redactor(allow=["泵|漏油|[，。]"])
    assert redactor.redact("李工说3号泵漏油，速修。").text == "某某某0某泵漏油，某某。"
    assert redactor.redact("李工速修").bare and not redactor.redact("泵").bare
    assert Redactor(allow=[r"1\d{10}"]).redact("13812345678").bare  # a rule against it still holds


@given(st.text())
def test_length_and_what_is_not_masked_stay(text: str) -> None:
    for redactor in (Redactor(), Redactor(terms=["a", "泵"]), Redactor(allow=["泵"])):
        masked = redactor.redact(text).text
        assert len(masked) == len(text)
        assert all(new == old or new in "0X某" for new, old in zip(masked, text, strict=True))
        assert redactor.redact(masked).text == masked


SHOWN = Demonstration("王工换泵，13812345678", '[{"W": "泵", "L": "EQUIP"}, {"W": "13812345678", "L": "PHONE"}]')
PROMPT = Prompt("维修", (EntityType("EQUIP"), EntityType("PHONE")), (SHOWN,))


def test_demonstrations_are_masked_with_their_answers() -> None:
    (shown,) = Redactor().prompt(PROMPT).demonstrations
    assert shown.text == "王工换泵，00000000000" and json.loads(shown.answer)[1]["W"] == "00000000000"


def test_spans_of_the_masked_text_are_spans_of_the_text_and_only_hashes_are_on_record(tmp_path: Path) -> None:
    text, masked = "打13912345678换泵", "打00000000000换泵"
    reply = '[{"W": "00000000000", "L": "PHONE"}, {"W": "泵", "L": "EQUIP"}]'
    (tmp_path / "names.txt").write_text("王工\n")
    privacy = {"audit": tmp_path / "audit.jsonl", "dictionaries": [tmp_path / "names.txt"]}
    with FakeLLM({masked: reply}) as fake:
        told = settings(fake.url, store=tmp_path / "s", privacy=privacy)
        answer = with_bridge(told, lambda bridge: bridge.answer(PROMPT, text, Mode.WAIT))
        assert answer == Answer(Status.FRESH, [Span(1, 12, "PHONE"), Span(13, 14, "EQUIP")])
        (asked,) = fake.requests
    sent = json.dumps(asked, ensure_ascii=False)
    assert "139" not in sent and "138" not in sent and "王工" not in sent
    assert b"13912345678" not in (tmp_path / "s").read_bytes()
    record = (tmp_path / "audit.jsonl").read_text()
    (entry,) = map(json.loads, record.splitlines())
    assert entry["redactions"] == {"phone": 1} and entry["characters"] == len(text)
    assert entry["text_sha256"] == hashlib.sha256(masked.encode()).hexdigest()
    assert "泵" not in record and "139" not in record


def test_what_cannot_be_put_on_record_or_says_nothing_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with FakeLLM(fault=Fault()) as fake:
        unwritable = settings(fake.url, privacy={"audit": tmp_path / "file" / "audit.jsonl"})
        assert answers(unwritable, "换泵") == [absent(Reason.PRIVACY)]
        assert answers(settings(fake.url, privacy={"allow": ["泵"]}), "李工") == [absent(Reason.PRIVACY)]
        assert fake.requests == []
