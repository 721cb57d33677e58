"""The log: one line an event on standard error, as text or JSON, each with the id of the request it is about."""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import re
import sys
import threading
import time
import uuid
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

from smallm_runtime.settings import Log, LogFormat

REQUEST_ID_KEY = "x-request-id"  # in a call's metadata and in its trailers
_NOISY = ("httpx", "httpx2", "httpcore", "httpcore2", "openai")
_WAITING = 10_000  # lines for a reader who is slow
_GATHER_S = 0.02  # lines that come so soon after one another are written together: waking for each costs calls time
_LAST_S = 2.0  # at the end, to write what waits
_GOOD_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass
class Call:
    """A call as the log knows it: whose it is, and why it was refused if it was."""

    id: str
    method: str
    caller: str = ""
    peer: str = ""
    reason: str = ""


current: ContextVar[Call | None] = ContextVar("call", default=None)


def read_request_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The caller's id if it can be put into a log and a header as it is, else a new one."""
    for name, value in metadata:
        if name == REQUEST_ID_KEY and isinstance(value, str) and _GOOD_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex


def configure(settings: Log) -> None:
    """Send everything logged in this process to standard error."""
    handler = Lines(sys.stderr)
    handler.setFormatter(_Json() if settings.format is LogFormat.JSON else _Text())
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)


class Lines(logging.Handler):
    """Writes lines in a thread of its own: a reader of the log who is slow, or gone, must not stop a server.

    Lines that do not fit in the queue are dropped, and the log says how many.
    """

    def __init__(self, stream: TextIO, waiting: int = _WAITING) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(waiting)
        self.dropped = 0
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Formatted here: the thread does not know the request."""
        try:
            line = self.format(record)
            if self.dropped:
                told = f"{self.dropped} lines before this one were dropped, nobody read them"
                gap = logging.LogRecord(__name__, logging.WARNING, __file__, 0, told, None, None)
                self._lines.put_nowait(self.format(gap))
                self.dropped = 0
            self._lines.put_nowait(line)
        except queue.Full:
            self.dropped += 1
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Write what waits, for two seconds at most."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
            self._writer.join(_LAST_S)
        super().close()

    def _write(self) -> None:
        lines: list[str | None] = []
        while None not in lines:
            lines = [self._lines.get()]
            time.sleep(_GATHER_S)
            with contextlib.suppress(queue.Empty):
                while lines[-1] is not None:
                    lines.append(self._lines.get_nowait())
            with contextlib.suppress(OSError, ValueError):  # the reader is gone, or the stream closed
                self._stream.write("".join(f"{line}\n" for line in lines if line is not None))
                self._stream.flush()


class _Json(logging.Formatter):
    """`extra={"fields": {...}}` of a record become members of their own."""

    def format(self, record: logging.LogRecord) -> str:
        value = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        call = current.get()
        if call is not None:
            value["request_id"] = call.id
        value |= getattr(record, "fields", {})
        if record.exc_info:
            value["exception"] = _types(record)
        return json.dumps(value, ensure_ascii=False, default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).isoformat(" ", "milliseconds")
        call = current.get()
        fields = {"request_id": call.id} if call is not None else {}
        told = "".join(f" {name}={value}" for name, value in (fields | getattr(record, "fields", {})).items())
        cause = f" ({_types(record)})" if record.exc_info else ""
        # A line break in a message must not make a line that looks like one of ours.
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        return f"{time} {record.levelname} {record.name} {message}{told}{cause}"


def _types(record: logging.LogRecord) -> str:
    """An exception by kind and place: its message may hold a customer's text."""
    assert record.exc_info
    kind, _, step = record.exc_info
    places = []
    while step is not None:
        places.append(f"{step.tb_frame.f_code.co_qualname}:{step.tb_lineno}")
        step = step.tb_next
    return f"{kind.__name__ if kind else 'error'} at {' > '.join(places)}"
