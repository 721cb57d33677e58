"""What integrators are shown works: the grpcurl lines of docs/api.md through reflection, the Java example."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.rpc import status_pb2

from smallm.client import Client
from tests.runtime.conftest import address, store  # noqa: F401 - fixtures

ROOT = Path(__file__).parents[1]
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```console\n(.*?)```", API, re.DOTALL) for line in block.splitlines()]
GRPCURL = [line for line in LINES if line.startswith("grpcurl ")]
TEXT = "𠮷3号循环泵漏油，更换机械密封"


@pytest.mark.parametrize("line", GRPCURL)
def test_a_grpcurl_line_of_the_documentation_works(line: str, address: str) -> None:  # noqa: F811
    program = Path(sys.executable).parent / "grpcurl"
    line = line.replace("grpcurl ", f"{program} ", 1).replace("127.0.0.1:50051", address)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout, done.stderr


def test_grpcurl_shows_the_details_of_an_error(address: str) -> None:  # noqa: F811
    program = Path(sys.executable).parent / "grpcurl"
    line: list[str | Path] = [
        program,
        "-plaintext",
        "-d",
        '{"min_score": 2}',
        address,
        "smallm.ner.v1.NerService/Recognize",
    ]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "INVALID_FIELD" in done.stderr and "min_score" in done.stderr


def test_there_are_lines_for_every_way_to_call() -> None:
    assert len(GRPCURL) >= 6
    assert all(any(word in line for line in GRPCURL) for word in ("list", "describe", "Stream", "Batch", "ModelInfer"))


@pytest.mark.slow
def test_the_java_example_knows_the_server_from_its_proto_alone(address: str, tmp_path: Path) -> None:  # noqa: F811
    if shutil.which("grpc_java_plugin") is None:
        raise FileNotFoundError("gRPC for Java is not installed: make java")
    folder = tmp_path / "examples" / "java"
    shutil.copytree(ROOT / "examples" / "java", folder, ignore=shutil.ignore_patterns("build"))
    (tmp_path / "proto").symlink_to(ROOT / "proto")
    googleapis = str(Path(status_pb2.__file__).parents[2])
    built = subprocess.run(
        [folder / "build.sh"], capture_output=True, text=True, env={**os.environ, "GOOGLEAPIS": googleapis}
    )
    assert built.returncode == 0, built.stderr
    java = ["java", "-cp", built.stdout.strip(), "RecognizeExample", address]
    done = subprocess.run([*java, TEXT], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with Client(address) as client:
        native = client.recognize(TEXT, offset_unit="utf16_code_units")
    *entities, llm, bundle = done.stdout.splitlines()
    assert entities == [f"{one.start} {one.end} {one.type} {one.text} {one.score:.2f}" for one in native.entities]
    assert llm.startswith("llm LLM_STATUS_") and bundle == f"bundle {native.provenance.bundle_sha256}"
    refused = subprocess.run([*java, TEXT, "no name"], cwd=folder, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[0] == "INVALID_ARGUMENT INVALID_FIELD" and "domain:" in refused.stderr


def test_the_documentation_names_every_reason_field_and_method() -> None:
    from smallm_runtime import open_inference

    from smallm.admin.v1 import admin_pb2
    from smallm.ner.v1 import ner_pb2

    names = {key.removeprefix("ERROR_REASON_") for key in ner_pb2.ErrorReason.keys()[1:]}
    for file in (ner_pb2.DESCRIPTOR, admin_pb2.DESCRIPTOR):
        names |= {method.name for service in file.services_by_name.values() for method in service.methods}
    names |= set(open_inference.methods())
    for message in ner_pb2.DESCRIPTOR.message_types_by_name.values():
        names |= {field.name for field in message.fields}
    missing = [name for name in sorted(names) if f"`{name}`" not in API]
    assert missing == []
