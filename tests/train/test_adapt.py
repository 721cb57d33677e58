"""Tuning inside an encoder: which weights learn, that merging changes no answer, and that choices stay honest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smallm.cli import main
from smallm.encoder import resolve
from smallm.errors import ArtifactError
from smallm.labels import LabelSet
from smallm_train.adapt import folder
from smallm_train.adapt.network import AdaptOptions, EncoderNetwork, Method, tagger
from smallm_train.features import FrozenEncoder

LABELS = LabelSet(("PART", "FAULT"))
TEXTS = {
    "train": ["更换轴承", "电机漏油", "阀门漏油", "更换阀门", "泵轴承", "电机更换"],
    "dev": ["轴承漏油", "更换电机"],
}
PARTS, FAULTS = ("轴承", "电机", "阀门", "泵"), ("漏油",)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split, texts in TEXTS.items():
        lines = []
        for text in texts:
            found = [(word, "PART") for word in PARTS if word in text] + [
                (word, "FAULT") for word in FAULTS if word in text
            ]
            entities = [
                {"start": text.index(word), "end": text.index(word) + len(word), "type": kind} for word, kind in found
            ]
            lines.append(json.dumps({"id": text, "text": text, "entities": entities}, ensure_ascii=False))
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("method", list(Method))
def test_a_method_trains_the_weights_it_says(method: Method, tiny_encoder: Path) -> None:
    network = tagger(FrozenEncoder(resolve(str(tiny_encoder))), LABELS, AdaptOptions(method, rank=2)).network
    assert isinstance(network, EncoderNetwork)
    learn = [name for name, parameter in network.encoder.named_parameters() if parameter.requires_grad]
    kind = {Method.LORA: "lora_", Method.BITFIT: ".bias", Method.FULL: ""}[method]
    assert learn and all(kind in name for name in learn)
    assert (len(learn) == len(list(network.encoder.parameters()))) == (method is Method.FULL)


def test_merging_lora_changes_no_emission(tiny_encoder: Path, tmp_path: Path) -> None:
    encoder = FrozenEncoder(resolve(str(tiny_encoder)))
    options = AdaptOptions(rank=2)
    model = tagger(encoder, LABELS, options)
    network = model.network.eval()
    assert isinstance(network, EncoderNetwork)
    torch.manual_seed(1)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    tokens = encoder.tokenizer.encode("泵轴承漏油")
    ids, mask = torch.tensor([tokens.ids]), torch.ones(1, len(tokens), dtype=torch.bool)
    with torch.inference_mode():
        network.last.weight.normal_()
        before = network(ids, mask)
        plain = network.last(torch.from_numpy(encoder.features([tokens])[0][None, :, -1]).float())
    folder.write(tmp_path / "out", model, encoder, options, ["泵轴承漏油"], {"dev_f1": 0.0})
    states = FrozenEncoder(resolve(str(tmp_path / "out"))).features([tokens])[0]
    with torch.inference_mode():
        after = network.last(torch.from_numpy(states[None, :, -1]).float())
    assert not torch.allclose(plain, before, atol=0.1)
    torch.testing.assert_close(after, before, atol=0.03, rtol=0.03)  # fp16 weights and features


def test_the_command_writes_an_encoder_that_train_takes_and_that_chooses_on_dev(
    data: Path, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = tmp_path / "adapted", tmp_path / "model"
    adapting = ["adapt", str(data), "--encoder", str(tiny_encoder), "--out", str(out), "--rate", "1e-2"]
    assert main(adapting) == 0
    assert not [name for name in load_file(out / "model.safetensors") if "lora" in name]
    card = json.loads((out / "adapted.json").read_text(encoding="utf-8"))
    assert card["options"]["method"] == "lora" and card["figures"]["dev_f1"] > 0.5
    assert not any(text in (out / "adapted.json").read_text(encoding="utf-8") for text in TEXTS["train"])
    training = ["train", str(data), "--encoder", str(out), "--out", str(model), "--epochs", "2", "--min-steps", "1"]
    assert main(training) == 0
    assert "has learned from 6 of the training texts" in capsys.readouterr().out
    assert json.loads((model / "model.json").read_text(encoding="utf-8"))["training"]["choice"]["texts"] == 2


def test_a_damaged_card_is_refused(tiny_encoder: Path) -> None:
    (tiny_encoder / "adapted.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"adapted\.json: damaged; adapt the encoder again"):
        folder.unseen(resolve(str(tiny_encoder)), ["泵"])
