"""Hold the contract to buf's STANDARD rules and to what was released (`--release`: what is here is released)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from generate import INCLUDES, ROOT, SOURCES
from grpc_tools import protoc

CONFIG = ROOT / "proto" / "buf.yaml"
RELEASED = ROOT / "proto" / "released.binpb"
BUF = Path(sys.executable).parent / "buf"
COMPLAINED = 100  # buf's exit status


def build(image: Path, includes: list[Path] = INCLUDES, sources: list[str] = SOURCES) -> None:
    """Compile the sources to a descriptor set; buf needs no module registry then. Exits if they do not compile."""
    options = ["--include_imports", "--include_source_info", f"--descriptor_set_out={image}"]
    status = protoc.main(["protoc", *(f"-I{folder}" for folder in includes), *options, *sources])
    if status:
        sys.exit(status)


def complaints(image: Path, released: Path = RELEASED) -> str:
    """What buf says against the image: its rules, then what would break a client of `released`; '' if nothing."""
    lines: tuple[list[str | Path], ...] = (["lint", image], ["breaking", image, "--against", released])
    return "".join(_buf(*line, "--config", CONFIG) for line in lines)


def _buf(*arguments: str | Path) -> str:
    done = subprocess.run([BUF, *arguments], capture_output=True, text=True)
    if done.returncode not in (0, COMPLAINED):
        sys.exit(f"buf {arguments[0]} failed: {done.stderr}")
    return done.stdout


def main() -> int:
    """0 if there is nothing to complain of."""
    with tempfile.TemporaryDirectory() as name:
        image = Path(name) / "now.binpb"
        build(image)
        if "--release" in sys.argv:
            _buf("build", image, "--exclude-source-info", "-o", RELEASED)
        found = complaints(image)
    print(found, end="", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
