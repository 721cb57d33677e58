"""Going on from an encoder: nothing that it knows is lost."""

from __future__ import annotations

import pytest
import torch

from smallm.encoder import resolve
from smallm.errors import ArtifactError
from smallm.tokenization import TextTokenizer
from smallm_train.pretrain.loop import Schedule
from smallm_train.pretrain.start import load

OWN = 4  # layers of the embedded encoder


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.load(resolve().folder)


def test_new_characters_come_last_and_known_ones_keep_their_ids(tokenizer: TextTokenizer) -> None:
    known = tokenizer.encode("泵漏油").ids
    larger = tokenizer.extended("泵龘靐")
    assert larger.vocabulary_size == tokenizer.vocabulary_size + 2
    assert larger.encode("泵漏油").ids == known
    assert larger.encode("龘靐").ids == [tokenizer.vocabulary_size, tokenizer.vocabulary_size + 1]
    assert tokenizer.encode("龘").ids == [tokenizer.unk_id]


def test_a_grown_encoder_still_guesses_the_masked_character(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("设备应当定期进行维护，发现问题及时处理并做好记录").ids
    inputs = torch.tensor([[tokenizer.cls_id, *ids, tokenizer.sep_id]])
    inputs[0, 7] = tokenizer.mask_id
    guesses = []
    for layers, vocabulary in ((0, tokenizer), (OWN + 2, tokenizer.extended("龘"))):
        model = load(resolve(), vocabulary, layers).eval()
        with torch.inference_mode():
            guesses.append(model(inputs).logits[0, 7, : tokenizer.vocabulary_size])
        assert model.config.num_hidden_layers == (layers or OWN)
    assert guesses[0].argmax() == guesses[1].argmax()
    assert torch.corrcoef(torch.stack(guesses))[0, 1] > 0.9


def test_fewer_layers_are_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(ArtifactError, match=f"has {OWN} layers, more than 2"):
        load(resolve(), tokenizer, 2)


def test_the_rate_rises_stays_and_falls() -> None:
    schedule = Schedule(tokens=1000, peak_rate=1.0, warmup_share=0.1, decay_share=0.5)
    rates = [schedule.rate(seen) for seen in (0, 50, 100, 500, 750, 1000)]
    assert rates == pytest.approx([0.001, 0.501, 1.0, 1.0, 0.51, 0.02])
