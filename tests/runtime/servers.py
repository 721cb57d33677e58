"""Servers in a test's own process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from smallm_runtime.server import Settings, running


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """A server in its own thread and event loop; yields its address."""
    address: list[str] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with running(replace(settings, listen="127.0.0.1:0", notice_s=0)) as port:
            address.append(f"127.0.0.1:{port}")
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    assert ready.wait(60)
    try:
        yield address[0]
    finally:
        stop.set()
        thread.join(30)
