"""A real `redis-server` on a free port of loopback, for as long as the tests run."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import redis


class RedisServer:
    """Starts the process. Raises FileNotFoundError if Debian's `redis-server` is not installed."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise FileNotFoundError("redis-server is not installed: apt-get install redis-server")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
        self._process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        self.url = f"redis://127.0.0.1:{port}/0"
        self._client = redis.Redis(port=port)
        for _ in range(200):
            try:
                self._client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.05)
        raise TimeoutError("redis-server does not answer")

    def flush(self) -> None:
        """Forget everything."""
        self._client.flushall()

    def close(self) -> None:
        """Stop it."""
        self._client.close()
        self._process.terminate()
        self._process.wait()
