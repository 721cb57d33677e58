"""Graphs in the making: fp32 in a scratch folder, each variant's in the bundle, and the gate between the two."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from smallm import atomic, bundle
from smallm.bundle import Domain, Variant
from smallm.errors import ArtifactError
from smallm.model_folder import Model
from smallm.tokenization import TextTokenizer
from smallm_export.canaries import record
from smallm_export.gate import Figures, measure
from smallm_export.graph import QUANTIZED
from smallm_export.head_graph import export_head
from smallm_export.parity import Graphs, Text, against_torch
from smallm_export.quantize import quantize
from smallm_export.smooth import weighted_names
from smallm_export.texts import DevText, calibration, references
from smallm_export.variants import Encoders

MAX_DIFFERENCE = 0.05  # fp32 against PyTorch, in emissions; the cached features alone are rounded to fp16


@dataclass
class Work:
    """`encoders` has the fp32 encoder; `dev` the texts of annotated dev files by domain, where there are any."""

    scratch: Path
    folder: Path
    tokenizer: TextTokenizer
    encoders: Encoders
    dev: dict[str, list[DevText]]
    domains: dict[str, Domain] = field(default_factory=dict)

    def write_domain(self, model: Model) -> None:
        """Write a domain's fp32 head and its prompt, and compare with PyTorch. Raises ArtifactError."""
        export_head(model, self._exact(model))
        if model.prompt is not None:
            target = self.folder / bundle.prompt_file(model.domain)
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_json(target, model.prompt.to_json())
        domain = Domain(
            list(model.labels.types),
            model.weights["transitions"].mean(0).tolist(),
            str(model.way),
            asdict(model.temperatures),
            model.training,
            against_torch(self._exact_graphs(model), references(model), model.decoder()),
        )
        if domain.parity["max_difference"] > MAX_DIFFERENCE:
            difference = domain.parity["max_difference"]
            raise ArtifactError(
                f"domain '{model.domain}': the ONNX graphs differ from PyTorch by {difference} in emissions"
            )
        self.domains[model.domain] = domain

    def write_variant(
        self, variant: str, models: Sequence[Model], exclude: Sequence[str]
    ) -> tuple[dict[str, Any], dict[str, Figures]]:
        """Write a variant's graphs: how the encoder was made, and figures by domain. Raises ArtifactError."""
        made = self.encoders.write(variant, self.folder / bundle.encoder_file(variant), exclude)
        for model in models:
            self.write_head(variant, model)
        return made, {model.domain: self.compare(variant, model) for model in models}

    def write_head(self, variant: str, model: Model) -> None:
        """Write a domain's head in the precision of `variant`, if it is not there."""
        exact, final = self._exact(model), self.folder / bundle.head_file(model.domain, precision(variant))
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            return
        if precision(variant) == "fp32":
            shutil.copy2(exact, final)
            return
        nodes = [name for name in weighted_names(exact) if name.endswith(QUANTIZED)]
        graphs, feeds = self._exact_graphs(model), []
        for reference in calibration(model):
            feed = graphs.head_feed([reference])
            feeds += [feed, {**feed, "votes": 0 * feed["votes"]}]  # as it will be served, with and without
        quantize(exact, final, feeds, nodes, reduce_range=self.encoders.reduce_range)

    def compare(self, variant: str, model: Model) -> Figures:
        """A variant's graphs in the bundle against fp32, on the domain's dev file or else its reference texts."""
        dev = self.dev.get(model.domain)
        texts: Sequence[Text] = dev or references(model)
        final = self._final_graphs(variant, model)
        return measure(self._exact_graphs(model), final, texts, model.labels, gold=dev is not None)

    def write_canaries(self, models: Sequence[Model], variants: Sequence[str]) -> None:
        """Enter the canaries of each domain, answered by all variants."""
        for model in models:
            graphs = {name: self._final_graphs(name, model) for name in variants}
            self.domains[model.domain].canaries.extend(record(graphs, model.labels))

    def variant(self, name: str, made: dict[str, Any], gated: bool) -> Variant:
        """A written variant for the manifest."""
        files = {bundle.encoder_file(name), *(bundle.head_file(one, precision(name)) for one in self.domains)}
        size = sum((self.folder / file).stat().st_size for file in files)
        needs = ["vnni"] if name == "int8" and not self.encoders.reduce_range else []
        return Variant(precision(name), size, needs, made, gated)

    def _exact(self, model: Model) -> Path:
        return self.scratch / f"{model.domain}.head.onnx"

    def _final_graphs(self, variant: str, model: Model) -> Graphs:
        encoder = self.folder / bundle.encoder_file(variant)
        return Graphs.load(encoder, self.folder / bundle.head_file(model.domain, precision(variant)), self.tokenizer)

    def _exact_graphs(self, model: Model) -> Graphs:
        return Graphs.load(self.encoders.plain, self._exact(model), self.tokenizer)


def precision(variant: str) -> str:
    """The precision of a variant's heads: too small to be worth fp16."""
    return "int8" if variant == "int8" else "fp32"
