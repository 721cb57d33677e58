"""Heads over the frozen encoder: ours, the paper's, and ours without the LLM.

This module alone touches the training API (`prepare`, `build_head`, `fit`, `choose`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from smallm.alignment import tags_to_spans
from smallm.crf import viterbi_batch
from smallm.fusion import Way
from smallm.labels import LabelSet
from smallm_train.choice import Choice, choose
from smallm_train.data import Split
from smallm_train.examples import Example, prepare
from smallm_train.experiment.systems.base import Curve, Outcome, Part, Predictions
from smallm_train.features import FrozenEncoder
from smallm_train.head import Head, build_head
from smallm_train.loop import Options, decoder, emissions, fit
from smallm_train.material import gather


@dataclass(frozen=True)
class HeadOptions(Options):
    """`smallm_train.loop.Options` and the head's `width` (0: the head's default)."""

    width: int = 0


@dataclass(frozen=True)
class Trained:
    """A trained head with the examples it is used on, and what was chosen on dev and by cross-fitting on train."""

    head: Head
    labels: LabelSet
    dev: list[Example]
    test: list[Example]
    choice: Choice
    seconds: float

    def curve(self, *, with_votes: bool) -> Curve:
        """Its predictions with the LLM's votes, at the weights chosen, or without them."""
        return Curve(*(self._predict(examples, with_votes) for examples in (self.dev, self.test)))

    def _predict(self, examples: Sequence[Example], with_votes: bool) -> Predictions:
        crf = decoder(self.head, self.labels)
        if not with_votes:
            examples = [replace(example, votes=np.zeros_like(example.votes)) for example in examples]
        tags = viterbi_batch(emissions(self.head, examples), crf.start, crf.transitions)
        return [
            tags_to_spans(path, example.tokens.offsets, self.labels)
            for path, example in zip(tags, examples, strict=True)
        ]


def train_head(
    kind: str, part: Part, encoder: FrozenEncoder, seed: int, options: HeadOptions, weak: Split | None = None
) -> Trained:
    """What `smallm train` does, without the model folder. Without any text to learn from the head stays at step 0."""
    labels = part.labels
    dev, test = (prepare(split.documents, split.answers, encoder, labels) for split in (part.dev, part.test))
    torch.manual_seed(seed)
    head = build_head(kind, labels, len(encoder.layers), encoder.hidden, options.width)
    material = gather(part.train, weak or Split([], []), encoder, labels, head.members, seed)
    own = {field.name for field in fields(Options)} - {"seed"}
    settings = Options(**{name: value for name, value in asdict(options).items() if name in own}, seed=seed)
    begin = time.perf_counter()
    if material.labelled or material.unlabelled:
        fit(head, material, settings)
    seconds = time.perf_counter() - begin
    choice = choose(head, labels, material.known, dev)
    return Trained(head, labels, dev, test, choice, seconds)


class OurHead:
    """The fusion head. One training gives three curves: local, fused, and the one served as chosen."""

    name, kind = "ours", "fusion"
    trained = True
    uses_encoder = True
    needs_answers = True
    uses_unlabelled = False
    options = HeadOptions

    def run(self, part: Part, encoder: FrozenEncoder | None, seed: int, options: HeadOptions) -> Outcome:
        """See `System.run`."""
        assert encoder is not None
        weak = part.unlabelled if self.uses_unlabelled else None
        trained = train_head(self.kind, part, encoder, seed, options, weak)
        local, fused = trained.curve(with_votes=False), trained.curve(with_votes=True)
        way = trained.choice.way
        if way is Way.LLM:
            served = Curve(
                *(_llm_or_local(split, own) for split, own in ((part.dev, local.dev), (part.test, local.test)))
            )
        else:
            served = local if way is Way.LOCAL else fused
        return Outcome(
            curves={f"{self.name}.local": local, f"{self.name}.fused": fused, f"{self.name}.served": served},
            figures=_figures(trained),
            parameters=trained.head.num_parameters(),
            seconds=trained.seconds,
        )


class PaperHead(OurHead):
    """The published head (Yang et al. 2025) in the same training."""

    name, kind = "paper", "paper"


class OurHeadUnlabelled(OurHead):
    """Ours after learning from the LLM's answers to the training texts that the subset leaves out.

    As in a factory, which has many texts that nobody has labelled and that the LLM has answered.
    """

    name = "unlabelled"
    uses_unlabelled = True


class LocalHead:
    """Feature-based: our head, trained and used without a single vote of the LLM."""

    trained = True
    uses_encoder = True
    needs_answers = False
    options = HeadOptions

    def run(self, part: Part, encoder: FrozenEncoder | None, seed: int, options: HeadOptions) -> Outcome:
        """See `System.run`."""
        assert encoder is not None
        silent = replace(part, train=_silent(part.train), dev=_silent(part.dev), test=_silent(part.test))
        trained = train_head("fusion", silent, encoder, seed, options)
        return Outcome(
            curves={"local": trained.curve(with_votes=False)},
            figures=_figures(trained),
            parameters=trained.head.num_parameters(),
            seconds=trained.seconds,
        )


def _silent(split: Split) -> Split:
    return Split(split.documents, [None] * len(split.documents))


def _llm_or_local(split: Split, local: Predictions) -> Predictions:
    return [list(answer) if answer is not None else own for answer, own in zip(split.answers, local, strict=True)]


def _figures(trained: Trained) -> dict[str, Any]:
    return asdict(trained.choice) | asdict(trained.head.weights)
