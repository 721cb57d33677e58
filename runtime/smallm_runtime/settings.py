"""What a server was told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from smallm.llm.settings import BridgeSettings


@dataclass(frozen=True)
class Settings:
    """What `smallm serve` was told. `threads` None takes what the container may use.

    `bundle` may be a symlink that an operator switches: it is followed anew at every reload. `beside` are further
    bundles, served to those who ask for them by name. At a stop the server says so for `notice_s`, still answering,
    then gives running calls `grace_s`.
    """

    bundle: Path
    listen: str = "127.0.0.1:50051"
    threads: int | None = None
    device: str = "cpu"
    metrics: str = ""  # HOST:PORT for Prometheus
    bridge: BridgeSettings = BridgeSettings()
    beside: tuple[Path, ...] = ()
    notice_s: float = 0.5
    grace_s: float = 10.0
