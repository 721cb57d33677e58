"""Going on from a trained encoder: its weights, deeper and with more characters where asked."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from smallm.encoder import Encoder
from smallm.errors import ArtifactError
from smallm.tokenization import TextTokenizer


def load(encoder: Encoder, tokenizer: TextTokenizer, layers: int) -> BertForMaskedLM:
    """The encoder's weights with its masked-language head, fitted to `tokenizer` and grown to `layers`.

    `tokenizer` is the encoder's own or an extension of it; the new characters start as the mean of the
    known ones. Raises ArtifactError for an architecture other than BERT, or if layers would have to go.
    """
    config = BertConfig.from_pretrained(encoder.folder, local_files_only=True)
    if config.model_type != "bert":
        raise ArtifactError(f"encoder '{encoder.name}': pre-training goes on with BERT only, not {config.model_type}")
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model: BertForMaskedLM = BertForMaskedLM.from_pretrained(
        encoder.folder, config=config, local_files_only=True, dtype=torch.float32
    )
    if layers and layers < config.num_hidden_layers:
        raise ArtifactError(f"encoder '{encoder.name}' has {config.num_hidden_layers} layers, more than {layers}")
    model.resize_token_embeddings(tokenizer.vocabulary_size, mean_resizing=True)
    grow(model, layers or config.num_hidden_layers)
    return model


@torch.no_grad()
def grow(model: BertForMaskedLM, layers: int) -> None:
    """Append layers that at first pass their input on almost unchanged, so that nothing learned is lost.

    Each is a copy of one below whose two output projections are zero; its layer norms undo what they
    do to the output of the norm before. (Growing a trained BERT: Gong et al. 2019, by stacking.)
    """
    stack: Any = model.bert.encoder.layer
    original = len(stack)
    for index in range(original, layers):
        layer = copy.deepcopy(stack[index % original])
        below = stack[index - 1].output.LayerNorm
        spread = torch.sqrt((below.weight**2).mean() + below.bias.var())
        for block in (layer.attention.output, layer.output):
            _zero(block.dense)
            block.LayerNorm.weight.fill_(spread)
            block.LayerNorm.bias.fill_(below.bias.mean())
        stack.append(layer)
    model.config.num_hidden_layers = layers


def _zero(linear: nn.Linear) -> None:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
