"""Our head over an encoder that was first adapted to the training texts (`smallm adapt`)."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from smallm.encoder import resolve
from smallm.labels import LabelSet
from smallm_train.adapt import folder
from smallm_train.adapt.network import AdaptOptions, encoded, optimizer, tagger
from smallm_train.data import Split
from smallm_train.experiment.systems.base import Outcome
from smallm_train.experiment.systems.heads import HeadOptions, OurHead
from smallm_train.features import FrozenEncoder


class Adapted(OurHead):
    """See the module. The method is LoRA; what is chosen is chosen on dev alone."""

    name = "adapted"

    def run(
        self,
        train: Split,
        dev: Split,
        test: Split,
        labels: LabelSet,
        encoder: FrozenEncoder | None,
        seed: int,
        options: HeadOptions,
    ) -> Outcome:
        """See `System.run`."""
        assert encoder is not None
        if not train.documents:
            return super().run(train, dev, test, labels, encoder, seed, options)
        settings = AdaptOptions()
        torch.manual_seed(seed)
        begin = time.perf_counter()
        model = tagger(encoder, labels, settings)
        parts = [encoded(split.documents, encoder, labels) for split in (train, dev)]
        figures = model.fit(parts[0], parts[1], optimizer(model, settings), settings, seed)
        seconds = time.perf_counter() - begin
        with tempfile.TemporaryDirectory() as temporary:
            out = Path(temporary) / "encoder"
            folder.write(out, model, encoder, settings, [document.text for document in train.documents], figures)
            outcome = super().run(train, dev, test, labels, FrozenEncoder(resolve(str(out))), seed, options)
        parameters = outcome.parameters + model.num_parameters()
        return replace(outcome, parameters=parameters, seconds=outcome.seconds + seconds)
