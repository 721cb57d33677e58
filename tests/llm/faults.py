"""Everything an endpoint can do wrong, and what the answer then says. The texts asked about name a 泵."""

from __future__ import annotations

import json

from smallm.llm.reasons import Reason
from tests.fake_llm import Fault

HANGS_S = 20.0  # longer than anybody here waits
FAULTS: dict[str, tuple[Fault, Reason]] = {
    "no right to ask": (Fault(401, "{}"), Reason.UNAUTHORIZED),
    "forbidden": (Fault(403, "{}"), Reason.UNAUTHORIZED),
    "rejected": (Fault(400, "{}"), Reason.REFUSED),
    "no such model": (Fault(404, "{}"), Reason.UNAVAILABLE),
    "rate limited": (Fault(429, "{}"), Reason.RATE_LIMITED),
    "server error": (Fault(500, "{}"), Reason.UNAVAILABLE),
    "overloaded": (Fault(503, "<html>"), Reason.UNAVAILABLE),
    "hangs": (Fault(delay_s=HANGS_S), Reason.TIMEOUT),
    "connection dropped": (Fault(drop=True), Reason.UNAVAILABLE),
    "reset in the middle of the body": (Fault(cut=40), Reason.UNAVAILABLE),
    "reset before the body": (Fault(cut=0), Reason.UNAVAILABLE),
    "slow drip": (Fault(drip_s=0.2), Reason.TIMEOUT),
    "gateway's page": (Fault(body="<html>gateway</html>", content_type="text/html"), Reason.UNAVAILABLE),
    "body that is no JSON": (Fault(body="{'choices': "), Reason.UNAVAILABLE),
    "body that is another JSON": (Fault(body="[1, 2]"), Reason.UNAVAILABLE),
    "body null": (Fault(body="null"), Reason.UNAVAILABLE),
    "no choices": (Fault(body='{"choices": []}'), Reason.EMPTY),
    "choices null": (Fault(body='{"choices": null}'), Reason.EMPTY),
    "choice without a message": (Fault(body='{"choices": [{"index": 0}]}'), Reason.EMPTY),
    "empty content": (Fault(content=""), Reason.EMPTY),
    "content of another type": (Fault(body='{"choices": [{"message": {"content": 7}}]}'), Reason.EMPTY),
    "stopped at the token limit": (Fault(content='[{"W": "泵", "L": "EQUIP"}]', finish="length"), Reason.TRUNCATED),
    "cut off unsaid": (Fault(content='[{"W": "泵", "L": "EQUIP"}, {"W": "漏'), Reason.TRUNCATED),
    "cut off in a fence": (Fault(content='```json\n[{"W": "泵", "L": "EQUIP"},'), Reason.TRUNCATED),
    "refusal": (Fault(content="", refusal="no"), Reason.REFUSED),
    "content filter": (Fault(content="", finish="content_filter"), Reason.REFUSED),
    "chat instead of JSON": (Fault(content="我不知道"), Reason.UNPARSABLE),
    "JSON without entities": (Fault(content=json.dumps({"answer": 3})), Reason.UNPARSABLE),
    "thoughts only": (Fault(content='<think>[{"W": "泵", "L": "EQUIP"}]</think>\n'), Reason.UNPARSABLE),
    "translated": (Fault(content='[{"W": "pump", "L": "EQUIP"}]'), Reason.WRONG_LANGUAGE),
}
