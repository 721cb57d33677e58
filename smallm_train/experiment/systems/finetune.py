"""Full fine-tuning: every weight of the encoder, a linear layer and a CRF (Devlin et al. 2019, and a CRF)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from smallm.labels import LabelSet
from smallm_train.adapt.network import AdaptOptions, Method, encoded, optimizer, tagger
from smallm_train.data import Split
from smallm_train.experiment.systems.base import Outcome
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

    def run(
        self,
        train: Split,
        dev: Split,
        test: Split,
        labels: LabelSet,
        encoder: FrozenEncoder | None,
        seed: int,
        options: FineTuningOptions,
    ) -> Outcome:
        """See `System.run`."""
        assert encoder is not None
        torch.manual_seed(seed)
        model = tagger(encoder, labels, options)
        parts = [encoded(split.documents, encoder, labels) for split in (train, dev, test)]
        return fit_and_predict(
            "finetune", model, (parts[0], parts[1], parts[2]), optimizer(model, options), options, seed
        )
