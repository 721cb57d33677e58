"""A head's graph against PyTorch's emissions decoded by `smallm.crf`, over lengths, padding, votes and ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from smallm_export.head_graph import export_head

from smallm.fusion import Temperatures, Way
from smallm.labels import LabelSet, TagSpan
from smallm.model_folder import HeadShape, Model, Weights
from smallm_train.head import HEADS, Head, build_head

LABELS = LabelSet(("A", "B", "C"))
LAYERS, HIDDEN = 3, 24
OUTPUTS = ("tags", "scores", "local_tags", "local_scores", "local_confidence", "emissions")
Found = dict[str, NDArray[Any]]
Run = Callable[[NDArray[np.float32], NDArray[np.float32], list[int]], Found]


def build(kind: str, way: Way, folder: Path, std: float = 0.3) -> tuple[Head, Model, Run]:
    torch.manual_seed(1)
    head = build_head(kind, LABELS, LAYERS, HIDDEN, width=20).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=std)
    head.standardize(torch.randn(200, LAYERS, HIDDEN) * 2 + 1)
    head.weights = Weights((2.0, 3.0, 3.5, 2.5), 0.5, 0.25) if kind == "fusion" else head.weights
    weights = {name: value.detach().numpy() for name, value in head.state_dict().items()}
    shape = HeadShape(kind, 20, [0, 1, 2], HIDDEN, head.weights)
    model = Model("d", LABELS, "e", "f", 94, shape, weights, way, Temperatures(2.0, 0.7), None, [], [])
    export_head(model, folder / "head.onnx")
    session = onnxruntime.InferenceSession(folder / "head.onnx", providers=["CPUExecutionProvider"])

    def run(features: NDArray[np.float32], votes: NDArray[np.float32], lengths: list[int]) -> Found:
        found = session.run(None, {"features": features, "votes": votes, "lengths": np.array(lengths)})
        return dict(zip(OUTPUTS, found, strict=True))

    return head, model, run


def votes_for(lengths: list[int], answered: list[bool]) -> NDArray[np.float32]:
    votes = np.zeros((len(lengths), max(lengths), LABELS.num_tags), dtype=np.float32)
    for row, (length, one) in enumerate(zip(lengths, answered, strict=True)):
        spans = [TagSpan(s, min(s + 1 + s % 4, length), LABELS.types[s % 3]) for s in range(row, length, 6)]
        if one:
            votes[row, np.arange(length), LABELS.encode(spans, length)] = 1
    return votes


@pytest.mark.parametrize("way", list(Way))
@pytest.mark.parametrize("kind", list(HEADS))
def test_a_mixed_batch_is_decoded_as_each_text_alone_by_numpy(kind: str, way: Way, tmp_path: Path) -> None:
    head, model, run = build(kind, way, tmp_path)
    lengths, answered = [512, 1, 0, 40, 17, 1, 90], [True, True, True, False, True, False, True]
    rng = np.random.default_rng(0)
    features = rng.normal(size=(len(lengths), 512, LAYERS, HIDDEN)).astype(np.float32)
    votes = votes_for(lengths, answered)
    mask = torch.arange(512) < torch.tensor(lengths)[:, None]
    with torch.inference_mode():
        fused = head(torch.from_numpy(features), torch.from_numpy(votes), mask).numpy()
        local = head(torch.from_numpy(features), torch.from_numpy(0 * votes), mask).numpy()
    found = run(features, votes, lengths)
    decoder = model.decoder()
    for row, length in enumerate(lengths):
        expected = decoder.decode(fused[row, :length], local[row, :length], votes[row, :length], way)
        expected_local = decoder.decode(local[row, :length], local[row, :length], 0 * votes[row, :length], way)
        np.testing.assert_allclose(found["emissions"][row, :length], fused[row, :length], atol=1e-4)
        np.testing.assert_array_equal(found["tags"][row, :length], expected.tags)
        np.testing.assert_allclose(found["scores"][row, :length], expected.scores, atol=1e-4)
        np.testing.assert_array_equal(found["local_tags"][row, :length], expected.local_tags)
        np.testing.assert_allclose(found["local_scores"][row, :length], expected_local.scores, atol=1e-4)
        assert found["local_confidence"][row] == pytest.approx(expected.local_confidence, abs=1e-4)
        for name in OUTPUTS[:4]:
            assert not found[name][row, length:].any()


def test_what_stands_past_a_text_changes_nothing(tmp_path: Path) -> None:
    _, _, run = build("fusion", Way.FUSED, tmp_path)
    rng = np.random.default_rng(0)
    lengths = [5, 12, 1]
    features = rng.normal(size=(3, 40, LAYERS, HIDDEN)).astype(np.float32)
    votes = np.zeros((3, 40, LABELS.num_tags), dtype=np.float32)
    votes[:, :12] = votes_for(lengths, [True, False, True])
    other = features + 50 * (np.arange(40) >= np.array(lengths)[:, None])[:, :, None, None].astype(np.float32)
    one, two = run(features, votes, lengths), run(other, votes, lengths)
    alone = [run(features[i : i + 1, :n], votes[i : i + 1, :n], [n]) for i, n in enumerate(lengths)]
    for name in OUTPUTS[:5]:
        np.testing.assert_array_equal(one[name], two[name])
        for row, length in enumerate(lengths):
            part = np.s_[row] if name == "local_confidence" else np.s_[row, :length]
            np.testing.assert_allclose(one[name][part], alone[row][name][0], atol=1e-5)


def test_ties_take_the_lower_tag_as_numpy_does(tmp_path: Path) -> None:
    head, model, run = build("paper", Way.FUSED, tmp_path, std=0.0)  # every tag of every token scores 0
    assert not any(parameter.any() for parameter in head.parameters())
    features, votes = np.zeros((2, 9, LAYERS, HIDDEN), dtype=np.float32), votes_for([9, 9], [False, True])
    votes[1, 4:] = 0  # a vote for some of its tokens only
    found = run(features, votes, [9, 9])
    assert found["tags"][0].tolist() == [0] * 9
    assert found["tags"][1].tolist() == model.decoder().tags(found["emissions"][1])
    assert found["local_confidence"][0] == pytest.approx(found["local_confidence"][1]) and found["scores"][1].any()


@pytest.mark.parametrize("way", list(Way))
def test_tags_are_legal_whatever_the_votes(way: Way, tmp_path: Path) -> None:
    _, _, run = build("fusion", way, tmp_path, std=3.0)
    rng = np.random.default_rng(3)
    votes = np.eye(LABELS.num_tags, dtype=np.float32)[rng.integers(0, LABELS.num_tags, (20, 30))]
    found = run(10 * rng.normal(size=(20, 30, LAYERS, HIDDEN)).astype(np.float32), votes, [30] * 20)
    for tags in (*found["tags"], *found["local_tags"]):
        assert all(LABELS.legal(a, b) for a, b in zip([None, *tags], tags, strict=False))
    for name in ("scores", "local_scores", "local_confidence"):
        assert np.isfinite(found[name]).all() and (found[name] >= 0).all() and (found[name] <= 1).all()


def test_only_standard_operators(tmp_path: Path) -> None:
    build("fusion", Way.LLM, tmp_path)
    model = onnx.load(tmp_path / "head.onnx")
    bodies = [attribute.g for node in model.graph.node for attribute in node.attribute if attribute.HasField("g")]
    assert len(bodies) == 2 and [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert {node.domain for graph in (model.graph, *bodies) for node in graph.node} == {""}
