"""Heads over the frozen encoder: ours, the paper's, and ours without the LLM.

This module alone touches the training API (`prepare`, `build_head`, `fit`, `choose`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from smallm.alignment import tags_to_spans
from smallm.fusion import Way
from smallm.labels import LabelSet
from smallm.scoring import score
from smallm_train.command import choose
from smallm_train.data import Split
from smallm_train.examples import Example, prepare
from smallm_train.experiment.systems.base import Curve, Outcome, Predictions
from smallm_train.features import FrozenEncoder
from smallm_train.head import Head, build_head
from smallm_train.loop import Options, Progress, decoder, dev_f1, emissions, fit


@dataclass(frozen=True)
class HeadOptions(Options):
    """`smallm_train.loop.Options` and the head's `width` (0: the head's default)."""

    width: int = 0


@dataclass(frozen=True)
class Trained:
    """A trained head with the examples it is used on."""

    head: Head
    labels: LabelSet
    dev: list[Example]
    test: list[Example]
    best: Progress
    seconds: float

    def curve(self, *, with_votes: bool) -> Curve:
        """Its predictions with the LLM's votes, at the alpha chosen on dev, or without them."""
        return Curve(*(self._predict(examples, with_votes) for examples in (self.dev, self.test)))

    def _predict(self, examples: Sequence[Example], with_votes: bool) -> Predictions:
        decode = decoder(self.head, self.labels)
        scores = emissions(self.head, examples, with_votes=with_votes)
        return [
            tags_to_spans(decode.tags(emitted), example.tokens.offsets, self.labels)
            for emitted, example in zip(scores, examples, strict=True)
        ]


def train_head(
    kind: str,
    train: Split,
    dev: Split,
    test: Split,
    labels: LabelSet,
    encoder: FrozenEncoder,
    seed: int,
    options: HeadOptions,
) -> Trained:
    """What `smallm train` does, without the model folder. Without training texts the head stays at step 0."""
    prepared = [prepare(split.documents, split.answers, encoder, labels) for split in (train, dev, test)]
    torch.manual_seed(seed)
    head = build_head(kind, labels, len(encoder.layers), encoder.hidden, options.width)
    settings = Options(**{name: value for name, value in asdict(options).items() if name not in ("width", "seed")})
    begin = time.perf_counter()
    if prepared[0]:
        best = fit(head, labels, prepared[0], prepared[1], replace(settings, seed=seed), lambda _: None)
    else:
        best = Progress(0, 0.0, *dev_f1(head, labels, prepared[1]))
    return Trained(head, labels, prepared[1], prepared[2], best, time.perf_counter() - begin)


class OurHead:
    """The fusion head. One training gives three curves: local, fused, and the one served as chosen on dev."""

    name, kind = "ours", "fusion"
    trained = True
    uses_encoder = True
    needs_answers = True
    options = HeadOptions

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
        trained = train_head(self.kind, train, dev, test, labels, encoder, seed, options)
        local, fused = trained.curve(with_votes=False), trained.curve(with_votes=True)
        gold = [document.spans for document in dev.documents]
        llm = score(gold, [answer or () for answer in dev.answers])["f1"]
        on_dev = {
            str(Way.LLM): llm,
            str(Way.LOCAL): score(gold, local.dev)["f1"],
            str(Way.FUSED): score(gold, fused.dev)["f1"],
        }
        way = choose(on_dev)
        if way is Way.LLM:
            served = Curve(*(_llm_or_local(split, own) for split, own in ((dev, local.dev), (test, local.test))))
        else:
            served = local if way is Way.LOCAL else fused
        return Outcome(
            curves={f"{self.name}.local": local, f"{self.name}.fused": fused, f"{self.name}.served": served},
            figures=_figures(trained) | {"way": str(way), "dev_f1_by_way": on_dev},
            parameters=trained.head.num_parameters(),
            seconds=trained.seconds,
        )


class PaperHead(OurHead):
    """The published head (Yang et al. 2025) in the same training."""

    name, kind = "paper", "paper"


class LocalHead:
    """Feature-based: our head, trained and used without a single vote of the LLM."""

    trained = True
    uses_encoder = True
    needs_answers = False
    options = HeadOptions

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
        trained = train_head("fusion", _silent(train), _silent(dev), _silent(test), labels, encoder, seed, options)
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
    return {"epoch": trained.best.epoch, "alpha": trained.head.alpha}
