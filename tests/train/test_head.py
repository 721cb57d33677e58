"""What the paper fixes, and what both heads keep: step 0 is the LLM."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from smallm.alignment import tags_to_spans
from smallm.encoder import resolve
from smallm.errors import ArtifactError
from smallm.labels import LabelSet
from smallm.tokenization import TextTokenizer
from smallm.votes import one_hot
from smallm_train.head import HEADS, FusionHead, PaperHead, build_head
from smallm_train.loop import decoder
from tests.conftest import SampleDomain

LABELS = LabelSet(("EQUIP", "PART", "FAULT", "ACTION", "VALUE", "CODE"))


@pytest.mark.parametrize(("tags", "width", "count"), [(12, 128, 100_124), (12, 256, 200_092), (16, 128, 100_752)])
def test_the_paper_head_has_the_papers_parameters(tags: int, width: int, count: int) -> None:
    """The paper's tags count <pad> <START> <EOS>, so its N is no 2T + 1."""
    labels = SimpleNamespace(num_tags=tags, legal=lambda previous, following: True)
    assert PaperHead(labels, layers=1, hidden=768, width=width).num_parameters() == count  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", list(HEADS))
def test_step_0_equals_the_llm_on_real_recordings(kind: str, sample: SampleDomain) -> None:
    tokenizer = TextTokenizer.load(resolve().folder)
    torch.manual_seed(1)
    head = build_head(kind, LABELS, layers=5, hidden=16).eval()
    crf = decoder(head, LABELS)
    compared = 0
    for document, answer in zip(sample.test, sample.test_answers, strict=True):
        assert answer is not None
        offsets = tokenizer.encode(document.text).offsets
        features = torch.randn(1, len(offsets), 5, 16)
        votes = torch.from_numpy(one_hot(answer, offsets, LABELS))[None]
        with torch.inference_mode():
            emissions = head(features, votes, torch.ones(1, len(offsets), dtype=torch.bool))[0].numpy()
        assert tags_to_spans(crf.tags(emissions), offsets, LABELS) == list(answer)
        compared += len(answer)
    assert compared > 300


@pytest.mark.parametrize("kind", list(HEADS))
def test_an_absent_llm_at_step_0_gives_nothing(kind: str) -> None:
    head = build_head(kind, LABELS, layers=2, hidden=8).eval()
    emissions = head(torch.randn(1, 9, 2, 8), torch.zeros(1, 9, LABELS.num_tags), torch.ones(1, 9, dtype=torch.bool))
    assert decoder(head, LABELS).tags(emissions[0].detach().numpy()) == [0] * 9


@pytest.mark.parametrize("kind", list(HEADS))
def test_padding_changes_nothing(kind: str) -> None:
    torch.manual_seed(2)
    head = build_head(kind, LABELS, layers=2, hidden=8).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    features, votes = torch.randn(1, 12, 2, 8), torch.rand(1, 12, LABELS.num_tags)
    mask = torch.arange(12)[None] < 7
    alone = head(features[:, :7], votes[:, :7], mask[:, :7])
    padded = head(features, votes, mask)[:, :7]
    torch.testing.assert_close(alone, padded, rtol=1e-5, atol=1e-5)


def test_standardising_makes_features_of_any_scale_alike() -> None:
    head = FusionHead(LABELS, layers=2, hidden=8, width=4)
    features = torch.randn(500, 2, 8) * 100 + 7
    head.standardize(features)
    scaled = (features - head.get_buffer("mean")) * head.get_buffer("scale")
    assert np.allclose(scaled.mean(0).abs().max(), 0, atol=1e-3) and np.allclose(scaled.std(0), 1, atol=1e-2)


def test_an_unknown_head_is_refused_by_name() -> None:
    with pytest.raises(ArtifactError, match="unknown head 'lstm'; known: fusion, paper"):
        build_head("lstm", LABELS, 1, 8)
