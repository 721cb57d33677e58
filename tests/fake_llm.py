"""An OpenAI-compatible server on loopback, a process of its own: replays replies and injects scripted faults.

`python -m tests.fake_llm` prints its base URL. It answers by the last user message: a recorded reply if there is
one, else what RULE says. GET and POST on /state show what was asked and set replies and faults.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PUMP = '[{"W": "泵", "L": "EQUIP"}]'


def rule(text: str) -> str:
    """What is answered to a text without a recorded reply."""
    return PUMP if "泵" in text else "[]"


@dataclass(frozen=True)
class Fault:
    """What to do with a call, in this order: wait, drop it, or answer so.

    `body` is the whole HTTP body, `content` only the message's; `drip_s` is the pause after each byte, `cut` bytes
    of the body are sent before the connection is reset; `rejects` names response formats that get status 400.
    """

    status: int = 200
    body: str | None = None
    content: str | None = None
    finish: str = "stop"
    refusal: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drop: bool = False
    cut: int | None = None
    drip_s: float = 0.0
    content_type: str = "application/json"
    usage: bool = True
    rejects: tuple[str, ...] = ()


class FakeLLM:
    """Starts the process; use it in a `with` block."""

    def __init__(self, replies: Mapping[str, str] | None = None, fault: Fault | None = None) -> None:
        self._replies, self._first = dict(replies or {}), fault

    def __enter__(self) -> FakeLLM:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fake_llm"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        self._set(replies=self._replies)
        if self._first is not None:
            self.script(self._first)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def script(self, *faults: Fault, then: Fault | None = None) -> None:
        """Use up `faults`, one a call, then `then` for good; a single fault without `then` stays."""
        last = then or (faults[0] if len(faults) == 1 else Fault())
        queue = () if then is None and len(faults) == 1 else faults
        self._set(queue=[asdict(fault) for fault in queue], fault=asdict(last))

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Bodies of all chat completions asked for."""
        requests: list[dict[str, Any]] = self._state()["requests"]
        return requests

    @property
    def keys(self) -> list[str]:
        """Their Authorization headers."""
        keys: list[str] = self._state()["keys"]
        return keys

    @property
    def peak(self) -> int:
        """The most of them at once."""
        return int(self._state()["peak"])

    def _state(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/state", timeout=10) as response:
            state: dict[str, Any] = json.load(response)
        return state

    def _set(self, **values: Any) -> None:
        urllib.request.urlopen(f"{self.url}/state", data=json.dumps(values).encode(), timeout=10).close()


@dataclass
class _State:
    lock: threading.Lock = field(default_factory=threading.Lock)
    replies: dict[str, str] = field(default_factory=dict)
    fault: Fault = field(default_factory=Fault)
    queue: list[Fault] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    running: int = 0
    peak: int = 0
    files: dict[str, str] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)

    def set(self, values: dict[str, Any]) -> None:
        with self.lock:
            self.replies.update(values.get("replies", {}))
            if "fault" in values:
                self.fault, self.queue = Fault(**values["fault"]), [Fault(**one) for one in values["queue"]]

    def begin(self, asked: dict[str, Any], key: str) -> Fault:
        with self.lock:
            self.requests.append(asked)
            self.keys.append(key)
            self.running += 1
            self.peak = max(self.peak, self.running)
            return self.queue.pop(0) if self.queue else self.fault

    def end(self) -> None:
        with self.lock:
            self.running -= 1

    def shown(self) -> dict[str, Any]:
        with self.lock:
            return {"requests": self.requests, "keys": self.keys, "peak": self.peak}

    def completion(self, asked: dict[str, Any], fault: Fault) -> dict[str, Any]:
        text = asked["messages"][-1]["content"]
        content = self.replies.get(text, rule(text)) if fault.content is None else fault.content
        if asked.get("response_format") and fault.content is None:
            content = f'{{"entities": {content}}}'
        message = {"role": "assistant", "content": content, "refusal": fault.refusal}
        choice = {"index": 0, "finish_reason": fault.finish, "message": message}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110} if fault.usage else None
        return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


class _Handler(BaseHTTPRequestHandler):
    state: _State
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # noqa: N802
        name = self.path.rpartition("/v1/")[2]
        if name == "state":
            self._send(200, json.dumps(self.state.shown()))
        elif name.startswith("batches/"):
            self._send(200, json.dumps(self.state.batches[name.split("/")[1]]))
        else:
            self._send(200, self.state.files[name.split("/")[1]])

    def do_POST(self) -> None:  # noqa: N802
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        name = self.path.rpartition("/v1/")[2]
        if name == "state":
            self.state.set(json.loads(raw))
            self._send(200, "{}")
        elif name == "files":
            self._file(raw.decode())
        elif name == "batches":
            self._batch(json.loads(raw))
        else:
            self._complete(json.loads(raw))

    def _complete(self, asked: dict[str, Any]) -> None:
        fault = self.state.begin(asked, self.headers.get("Authorization", ""))
        try:
            time.sleep(fault.delay_s)
            self._answer(asked, fault)
        except OSError:  # the client gave up
            self.close_connection = True
        finally:
            self.state.end()

    def _answer(self, asked: dict[str, Any], fault: Fault) -> None:
        if fault.drop:
            self._reset()
        elif (asked.get("response_format") or {}).get("type") in fault.rejects:
            self._send(400, '{"error": {"message": "response_format is not supported"}}')
        else:
            body = json.dumps(self.state.completion(asked, fault)) if fault.body is None else fault.body
            self._send(fault.status, body, fault)

    def _send(self, status: int, body: str, fault: Fault | None = None) -> None:
        fault = fault or Fault()
        data = body.encode()
        self.send_response(status)
        for name, value in fault.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", fault.content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault.cut is not None:
            self.wfile.write(data[: fault.cut])
            self._reset()
        elif fault.drip_s:
            for byte in data:
                self.wfile.write(bytes([byte]))
                time.sleep(fault.drip_s)
        else:
            self.wfile.write(data)

    def _reset(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _file(self, form: str) -> None:
        """The uploaded JSON lines stand bare between the form's boundaries."""
        name = f"file-{len(self.state.files)}"
        self.state.files[name] = "\n".join(line for line in form.splitlines() if line.startswith("{"))
        size = len(self.state.files[name])
        self._send(200, json.dumps({"id": name, "object": "file", "bytes": size, "created_at": 1,
                                    "filename": "x", "purpose": "batch", "status": "processed"}))  # fmt: skip

    def _batch(self, asked: dict[str, Any]) -> None:
        """Done at once: every request answered as a call would be."""
        lines: list[str] = []
        for line in self.state.files[asked["input_file_id"]].splitlines():
            one = json.loads(line)
            fault = self.state.begin(one["body"], self.headers.get("Authorization", ""))
            self.state.end()
            body = self.state.completion(one["body"], fault)
            response = {"status_code": fault.status, "request_id": "r", "body": body}
            lines.append(json.dumps({"id": "x", "custom_id": one["custom_id"], "response": response, "error": None}))
        name, output = f"batch-{len(self.state.batches)}", f"file-{len(self.state.files)}"
        self.state.files[output] = "\n".join(lines)
        self.state.batches[name] = {
            "id": name, "object": "batch", "completion_window": "24h", "created_at": 1, "status": "completed",
            "endpoint": asked["endpoint"], "input_file_id": asked["input_file_id"], "output_file_id": output,
        }  # fmt: skip
        self._send(200, json.dumps(self.state.batches[name]))

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512


def replies_of(lines: Iterable[str]) -> dict[str, str]:
    """Raw replies by text of a recording's lines."""
    return {record["text"]: record["response"] for record in map(json.loads, lines)}


def main() -> None:
    """Serve until killed."""
    state = _State()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
