"""The frozen encoder as an ONNX graph whose one output stacks the layers that the heads read."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from optimum.exporters.onnx import export
from optimum.exporters.onnx.base import OnnxConfig
from optimum.exporters.tasks import TasksManager
from transformers import AutoModel, PreTrainedModel

from smallm.errors import ArtifactError

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "features"


class _StackedLayers(torch.nn.Module):
    """An encoder that returns the chosen hidden states as one (b, n, layers, hidden) tensor."""

    def __init__(self, encoder: PreTrainedModel, layers: list[int]) -> None:
        super().__init__()
        self.encoder, self.layers = encoder, layers
        self.config = encoder.config
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        states = self.encoder(input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        return {OUTPUT: torch.stack([states[layer] for layer in self.layers], dim=2)}


def export_encoder(folder: Path, layers: list[int], output: Path) -> None:
    """Write the encoder in `folder` to `output` in fp32. Raises ArtifactError for an architecture optimum lacks.

    Inputs `input_ids` and `attention_mask`, int64 (batch, length) with [CLS] and [SEP]; output
    `features`, float32 (batch, length, layers, hidden). All of batch and length are dynamic.
    """
    with _quiet():
        model = AutoModel.from_pretrained(
            folder, local_files_only=True, add_pooling_layer=False, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        export(_StackedLayers(model, layers), _onnx_config(model), output, disable_dynamic_axes_fix=True)


def _onnx_config(model: Any) -> OnnxConfig:
    """Optimum's configuration of this architecture, with our inputs and output."""
    try:
        constructor: Any = TasksManager.get_exporter_config_constructor("onnx", model, task="feature-extraction")
    except (KeyError, ValueError) as error:
        raise ArtifactError(f"optimum cannot export a '{model.config.model_type}' encoder: {error}") from None
    base = type(constructor(model.config))

    class StackedConfig(base):  # type: ignore[misc, valid-type]
        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            return {name: {0: "batch", 1: "length"} for name in INPUTS}

        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            return {OUTPUT: {0: "batch", 1: "length"}}

    config: OnnxConfig = StackedConfig(model.config, task="feature-extraction")
    return config


@contextmanager
def _quiet() -> Iterator[None]:
    """Tracing warns about shapes it fixes; the dynamic dimensions are checked by parity afterwards."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
