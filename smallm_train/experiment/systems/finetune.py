"""Full fine-tuning: every weight of the encoder, a linear layer and a CRF (Devlin et al. 2019, and a CRF)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from smallm_train.adapt.network import AdaptOptions, Method, encoded, optimizer, tagger
from smallm_train.experiment.systems.base import Outcome, Part
from smallm_train.experiment.systems.fitting import fit_and_predict
from smallm_train.features import FrozenEncoder


@dataclass(frozen=True)
class FineTuningOptions(AdaptOptions):
    """`AdaptOptions` with every weight as the default method."""

    method: Method = Method.FULL


class FineTuning:
    """See the module. The LLM is not used; the encoder starts from the frozen one's weights."""

    trained = True
    uses_encoder = True
    needs_answers = False
    options = FineTuningOptions

    def run(self, part: Part, encoder: FrozenEncoder | None, seed: int, options: FineTuningOptions) -> Outcome:
        """See `System.run`."""
        assert encoder is not None
        torch.manual_seed(seed)
        model = tagger(encoder, part.labels, options)
        parts = [encoded(split.documents, encoder, part.labels) for split in (part.train, part.dev, part.test)]
        return fit_and_predict(
            "finetune", model, (parts[0], parts[1], parts[2]), optimizer(model, options), options, seed
        )
