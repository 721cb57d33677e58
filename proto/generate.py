"""Generate the gRPC stubs into smallm/ (`--check`: fail if those there differ)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.rpc import status_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
INCLUDES = [
    ROOT / "proto",
    Path(status_pb2.__file__).parents[2],  # googleapis-common-protos ships its .proto files
    Path(grpc_tools.__file__).parent / "_proto",
]
SOURCES = ["smallm/ner/v1/ner.proto", "smallm/admin/v1/admin.proto"]
DESCRIPTORS = "runtime/smallm_runtime/open_inference.binpb"  # no stubs: see open_inference.py


def generate(out: Path) -> None:
    """Run protoc on every source into `out`."""
    options = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    programs = Path(sys.executable).parent  # of the virtual environment, activated or not
    options += [f"--plugin=protoc-gen-{kind}={programs / f'protoc-gen-{kind}'}" for kind in ("mypy", "mypy_grpc")]
    _protoc(*options, *SOURCES)
    descriptors = out / DESCRIPTORS
    descriptors.parent.mkdir(parents=True, exist_ok=True)
    _protoc(f"--descriptor_set_out={descriptors}", "inference/open_inference.proto")


def _protoc(*arguments: str) -> None:
    status = protoc.main(["protoc", *(f"-I{folder}" for folder in INCLUDES), *arguments])
    if status:
        sys.exit(status)


def main() -> int:
    """0 if the stubs are written, or with --check if they match."""
    if "--check" not in sys.argv:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as name:
        generate(Path(name))
        made = sorted(file for file in Path(name).rglob("*") if file.is_file())
        stale = [file for file in made if not _same(file, ROOT / file.relative_to(name))]
    for file in stale:
        print(f"{file.relative_to(name)} does not match proto/; run `make proto`", file=sys.stderr)
    return 1 if stale else 0


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()


if __name__ == "__main__":
    sys.exit(main())
