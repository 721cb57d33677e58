"""Our head over an encoder that was first adapted to the training texts (`smallm adapt`)."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from smallm.encoder import resolve
from smallm_train.adapt import folder
from smallm_train.adapt.network import AdaptOptions, encoded, optimizer, tagger
from smallm_train.experiment.systems.base import Outcome, Part
from smallm_train.experiment.systems.heads import HeadOptions, OurHead
from smallm_train.features import FrozenEncoder


class Adapted(OurHead):
    """See the module. The method is LoRA; what is chosen is chosen on dev alone."""

    name = "adapted"

    def run(self, part: Part, encoder: FrozenEncoder | None, seed: int, options: HeadOptions) -> Outcome:
        """See `System.run`."""
        assert encoder is not None
        if not part.train.documents:
            return super().run(part, encoder, seed, options)
        settings = AdaptOptions()
        torch.manual_seed(seed)
        begin = time.perf_counter()
        model = tagger(encoder, part.labels, settings)
        train, dev = (encoded(split.documents, encoder, part.labels) for split in (part.train, part.dev))
        figures = model.fit(train, dev, optimizer(model, settings), settings, seed)
        seconds = time.perf_counter() - begin
        with tempfile.TemporaryDirectory() as temporary:
            out = Path(temporary) / "encoder"
            folder.write(out, model, encoder, settings, [document.text for document in part.train.documents], figures)
            outcome = super().run(part, FrozenEncoder(resolve(str(out))), seed, options)
        parameters = outcome.parameters + model.num_parameters()
        return replace(outcome, parameters=parameters, seconds=outcome.seconds + seconds)
