"""What several tests share: the sample domain, and one short-trained model and bundle of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from smallm.documents import Document, Span
from smallm.formats import read_documents

os.environ["SMALLM_CACHE"] = tempfile.mkdtemp(prefix="smallm-tests-")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

EXAMPLES = Path(__file__).parent.parent / "examples" / "work_orders"


@dataclass(frozen=True)
class SampleDomain:
    """The sample work orders."""

    folder: Path
    answers: Path
    test: list[Document]
    test_answers: list[list[Span] | None]


@pytest.fixture(scope="session")
def sample() -> SampleDomain:
    from smallm.llm.recordings import read_answers

    test = read_documents(EXAMPLES / "test.jsonl")
    answers = EXAMPLES / "answers.jsonl"
    return SampleDomain(EXAMPLES, answers, test, read_answers(answers).spans([document.text for document in test]))


@pytest.fixture(scope="session")
def model_folder(sample: SampleDomain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained through the command, a few epochs only: its scores mean nothing."""
    from smallm.cli import main

    out = tmp_path_factory.mktemp("model") / "work_orders"
    arguments = ["train", str(sample.folder), "--answers", str(sample.answers), "--out", str(out)]
    assert main([*arguments, "--epochs", "4", "--min-steps", "1"]) == 0
    return out


@pytest.fixture(scope="session")
def bundle_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The int8 bundle of `model_folder`."""
    from smallm.cli import main

    out = tmp_path_factory.mktemp("bundle") / "work_orders"
    assert main(["export-onnx", str(model_folder), "--out", str(out), "--no-gate"]) == 0
    return out


@pytest.fixture
def tiny_encoder(tmp_path: Path) -> Iterator[Path]:
    """A random two-layer BERT with a vocab.txt, saved as Hugging Face does."""
    import torch
    from transformers import BertConfig, BertModel

    from smallm.tokenization import SPECIAL_TOKENS

    folder = tmp_path / "tiny-bert"
    torch.manual_seed(0)
    words = [*SPECIAL_TOKENS, *"泵漏油电机轴承更换阀门0123456789"]
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=96,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    yield folder
