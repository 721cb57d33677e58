"""PyTorch and ONNX agree over a grid of lengths, paddings and batches; int8 ignores who shares the batch."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from smallm_export.encoder_graph import export_encoder
from smallm_runtime.engine import Engine, Item
from transformers import AutoModel

from smallm import model_folder as folders
from smallm.encoder import resolve
from tests.conftest import SampleDomain

GRID = list(product((1, 2, 17, 96), (0, 1, 33), (1, 2, 5)))  # length, padding, batch


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, onnxruntime.InferenceSession]:
    folder, file = resolve().folder, tmp_path_factory.mktemp("encoder") / "encoder.onnx"
    export_encoder(folder, [0, 2, 4], file)
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32).eval()
    return model, onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("length", "padding", "batch"), GRID)
def test_encoder(
    encoders: tuple[torch.nn.Module, onnxruntime.InferenceSession], length: int, padding: int, batch: int
) -> None:
    model, session = encoders
    rng = np.random.default_rng(length * 100 + padding * 10 + batch)
    ids = rng.integers(5, 3000, (batch, length + padding))
    mask = np.ones_like(ids)
    ids[:, length:], mask[:, length:] = 0, 0
    with torch.inference_mode():
        states = model(
            torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), output_hidden_states=True
        ).hidden_states
    expected = torch.stack([states[layer] for layer in (0, 2, 4)], dim=2)[:, :length].numpy()
    found = session.run(None, {"input_ids": ids, "attention_mask": mask})[0][:, :length]
    assert found.shape == (batch, length, 3, 256)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_the_manifest_states_what_was_measured(bundle_folder: Path, model_folder: Path) -> None:
    from smallm import bundle

    manifest = bundle.read(bundle_folder)
    (domain,) = manifest.domains.values()
    assert domain.parity["texts"] == len(folders.read(model_folder).dev_references) > 40
    assert domain.parity["max_difference"] < 0.01 and domain.parity["tag_agreement"] > 0.99
    gate = domain.gates["int8"]
    assert gate["batch_flips"] == 0 and max(gate["flips"].values()) < 0.02 and gate["tokens"] > 1000
    assert manifest.variants["int8"].bytes < 8e6 and manifest.variants["int8"].made["reduce_range"]


def test_int8_alone_equals_int8_in_any_company(bundle_folder: Path, sample: SampleDomain) -> None:
    engine = Engine.load(bundle_folder)
    items = [
        Item(document.text, answer=answer) for document, answer in zip(sample.test, sample.test_answers, strict=True)
    ] + [Item(document.text) for document in sample.test[:20]]
    alone = [[entity.span for entity in engine.recognize([item])[0]] for item in items]
    rng = np.random.default_rng(0)
    for size in (3, 16, len(items)):
        order = rng.permutation(len(items))
        for first in range(0, len(items), size):
            chosen = order[first : first + size]
            together = engine.recognize([items[index] for index in chosen])
            for index, entities in zip(chosen, together, strict=True):
                assert [entity.span for entity in entities] == alone[index]
