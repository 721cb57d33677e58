"""A text on its way through the encoder, some windows at a time, so that memory is bounded however long it is.

What the head sees of a long text are stretches that overlap: each has MARGIN tokens of context on either side of
what is kept of it, far more than the head's convolutions reach, and as far as a CRF remembers. Windows are
those of the whole text, and borders between stretches lie in no entity: the answer is that of one piece.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from smallm.alignment import Offsets
from smallm.documents import Span
from smallm.fusion import Entity
from smallm.tokenization import PackedTokens, Tokens
from smallm.windows import Window, cut, stitch

MARGIN = 64  # tokens
Features = NDArray[np.floating]


@dataclass(frozen=True)
class Stretch:
    """Tokens `begin` to `end` of a text: features (n, layers, hidden), offsets, and the answer's spans among them."""

    begin: int
    end: int
    features: Features
    offsets: Offsets
    answer: Sequence[Span] | None


@dataclass
class Stretches:
    """The way of one text: `parts` to the encoder, its outputs to `read`, the entities found to `accept`."""

    tokens: Tokens | PackedTokens
    window: int
    answer: Sequence[Span] | None
    at_once: int  # windows
    entities: list[Entity] = field(default_factory=list)
    confidence: float = 1.0
    _next: int = 0
    _floor: int = 0  # code point before which everything is decided
    _carry: Features | None = None
    _windows: list[Window] = field(init=False)

    def __post_init__(self) -> None:
        self._windows = cut(len(self.tokens), self.window)
        if len(self._windows) > self.at_once and self.answer is not None:
            self.answer = sorted(self.answer)

    @property
    def done(self) -> bool:
        """Whether all has been accepted."""
        return self._next >= len(self._windows)

    @property
    def left(self) -> int:
        """Tokens still to be encoded, overlaps included."""
        return sum(window.end - window.start for window in self._windows[self._next :])

    def parts(self) -> list[list[int]]:
        """Token ids of the next windows."""
        return [self.tokens[window.start : window.end].ids for window in self._coming()]

    def read(self, outputs: Sequence[Features]) -> Stretch:
        """What `outputs`, (window length, layers, hidden) for each of `parts`, complete. Changes nothing."""
        windows = self._coming()
        features = stitch(windows, outputs)
        if self._carry is not None:
            features = np.concatenate([self._carry, features])
        end = windows[-1].core_end
        begin = end - len(features)
        offsets = self.tokens[begin:end].offsets
        return Stretch(begin, end, features, offsets, self._answer(offsets[0][0], offsets[-1][1]))

    def accept(self, stretch: Stretch, entities: Sequence[Entity], confidence: float) -> None:
        """Keep what was found in `stretch` as far as it is certain, and go on to the next windows.

        The confidence of a long text is the least of its stretches'.
        """
        self._next += len(self._coming())
        self.confidence = min(self.confidence, confidence)
        border = len(self.tokens) if self.done else stretch.end - MARGIN
        if border <= stretch.begin:  # windows shorter than the margin: nothing is certain yet
            self._carry = stretch.features
            return
        if self.done:
            self.entities += [entity for entity in entities if entity.span.start >= self._floor]
            self._carry = None
            return
        limit = max(self._floor, stretch.offsets[border - stretch.begin][0])
        for entity in entities:
            if entity.span.start < limit < entity.span.end:
                reaches_far = entity.span.start < stretch.offsets[0][0] + MARGIN // 4
                limit = entity.span.end if reaches_far else entity.span.start
                break
        self.entities += [entity for entity in entities if self._floor <= entity.span.start < limit]
        self._floor = limit
        kept = bisect_left(stretch.offsets, limit, key=lambda offset: offset[0]) - MARGIN
        self._carry = stretch.features[max(0, min(kept, len(stretch.features) - MARGIN)) :].copy()

    def _coming(self) -> list[Window]:
        return self._windows[self._next : self._next + self.at_once]

    def _answer(self, first: int, last: int) -> Sequence[Span] | None:
        if self.answer is None or len(self._windows) <= self.at_once:
            return self.answer
        begin = bisect_left(self.answer, first - MARGIN, key=lambda span: span.start)
        end = bisect_left(self.answer, last, key=lambda span: span.start)
        return [span for span in self.answer[begin:end] if span.end > first]
