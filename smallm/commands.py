"""What the other packages offer by name: commands, and recognizers of a saved artefact.

Modules are imported when asked for, so that a plain install runs the client and says which extra
the rest needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from smallm.errors import ArtifactError, MissingExtraError

if TYPE_CHECKING:  # a plain install has no numpy
    from smallm.documents import Span
    from smallm.fusion import Entity, Way
    from smallm.llm.prompt import Prompt


class CommandModule(Protocol):
    """What a command's module offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; the exit status."""


class Recognizer(Protocol):
    """A trained domain that answers, whatever runs it."""

    way: Way
    prompt: Prompt | None

    def recognize(self, texts: Sequence[str], answers: Sequence[Sequence[Span] | None], way: Way) -> list[list[Entity]]:
        """Entities of each text, given the LLM's spans for it or None."""

    def confidences(self, texts: Sequence[str]) -> list[float]:
        """How sure the local model is of its whole answer to each text, 0 to 1."""


@dataclass(frozen=True)
class Command:
    """Where a command lives, its one-line help, and the extra that its imports need."""

    module: str
    help: str
    extra: str


COMMANDS = {
    "recognize": Command("smallm.recognize", "send texts to a server, print entities", ""),
    "serve": Command("smallm_runtime.command", "serve a bundle through gRPC", "cpu"),
    "tune": Command("smallm_runtime.tune", "measure what is fastest on this machine, for the server to read", "cpu"),
    "llm": Command("smallm.llm.command", "the store of LLM answers: annotate, import, export", "cpu"),
    "train": Command("smallm_train.command", "train a domain's head on annotated data and LLM answers", "train"),
    "adapt": Command("smallm_train.adapt.command", "tune inside an encoder on a domain's labels", "train"),
    "evaluate": Command("smallm.evaluate", "score LLM-only, local-only and fused on annotated data", "cpu"),
    "convert": Command("smallm.convert", "annotated text from one format to another", ""),
    "export-onnx": Command("smallm_export.command", "model folder to a self-contained ONNX bundle", "export"),
    "bundle": Command("smallm.bundle_command", "look into a bundle, add a domain, check, sign", "cpu"),
    "token": Command("smallm_runtime.token_command", "bearer tokens of a server: new, revoke, list", "cpu"),
    "doctor": Command("smallm_runtime.doctor", "what is wrong with a machine and its settings, and the cure", "cpu"),
    "experiment": Command(
        "smallm_train.experiment.command", "datasets x sizes x seeds x systems of a .toml, and their report", "train"
    ),
    "pretrain": Command("smallm_train.pretrain.command", "pre-train an encoder from text files", "train"),
}


def load_command(name: str) -> CommandModule:
    """Import a command's module. Raises MissingExtraError if its extra is not installed."""
    command = COMMANDS[name]
    return _import(command.module, f"`smallm {name}`", command.extra)  # type: ignore[return-value]


def load_function(module: str, name: str, needed_by: str, extra: str) -> Callable[[argparse.Namespace], int]:
    """A function of a module that needs an extra. Raises MissingExtraError if that is not installed."""
    function: Callable[[argparse.Namespace], int] = getattr(_import(module, needed_by, extra), name)
    return function


def load_recognizer(path: Path, domain: str = "", encoder: str = "") -> Recognizer:
    """A model folder through PyTorch, a bundle through ONNX Runtime. Raises ArtifactError, MissingExtraError."""
    for marker, module, extra in (
        ("manifest.json", "smallm_runtime.recognizer", "cpu"),
        ("model.json", "smallm_train.recognizer", "train"),
    ):
        if (path / marker).is_file():
            loaded: Recognizer = _import(module, str(path), extra).load(path, domain, encoder)  # type: ignore[attr-defined]
            return loaded
    raise ArtifactError(f"{path}: neither a model folder (model.json) nor a bundle (manifest.json)")


def _import(module: str, needed_by: str, extra: str) -> object:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if not extra or (error.name or "").startswith(
            ("smallm.", "smallm_train.", "smallm_export.", "smallm_runtime.")
        ):
            raise
        raise MissingExtraError(
            f"{needed_by} needs {error.name}, which is not installed: pip install 'smallm[{extra}]'"
        ) from None
