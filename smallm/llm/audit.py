"""A record of what left the site, one JSON line a call: hashes and counts, never the text."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from smallm.errors import LLMError
from smallm.llm.reasons import Reason
from smallm.llm.request import Request


class Audit:
    """Appends before a call is made: what cannot be put on record is not sent."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def sent(self, request: Request, redactions: Mapping[str, int]) -> None:
        """Record that `request` is about to be sent. Raises LLMError("privacy") if it cannot be."""
        if self._path is None:
            return
        text = request.messages[-1]["content"]
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "provider": request.model.provider,
            "model": request.model.name,
            "request": request.key,
            "text_sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
            "characters": len(text),
            "redactions": dict(redactions),
        }
        line = (json.dumps(entry) + "\n").encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, line)  # one write to a file opened for appending: lines of processes do not mix
            finally:
                os.close(descriptor)
        except OSError as error:
            raise LLMError(Reason.PRIVACY, f"the audit record cannot be written ({type(error).__name__})") from None
