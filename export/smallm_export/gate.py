"""Whether a variant's graphs answer as the fp32 ones do, on texts of the domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from smallm.labels import LabelSet
from smallm_export.parity import Graphs, Text, f1

FLIPS = 0.005  # of the tags
F1_DROP = 0.003
BATCH = 8


@dataclass(frozen=True)
class Figures:
    """A variant against fp32 on `texts` texts of `tokens` tokens.

    flips: share of the tags that differ, with the texts' votes (`served`) and without (`local`); f1: of both,
    before and after, None without gold that counts; batch_flips: tags that change when texts share a padded batch.
    """

    texts: int
    tokens: int
    flips: dict[str, float]
    f1: dict[str, tuple[float, float]] | None
    batch_flips: int

    def failures(self) -> list[str]:
        """What is out of bounds, in words; [] if nothing is."""
        said = [
            f"{100 * rate:.2f} % of its {name} tags differ from fp32's, more than {100 * FLIPS} %"
            for name, rate in self.flips.items()
            if rate > FLIPS
        ]
        said += [
            f"{name} F1 falls from {100 * before:.1f} to {100 * after:.1f}, by more than {100 * F1_DROP} points"
            for name, (before, after) in (self.f1 or {}).items()
            if before - after > F1_DROP
        ]
        if self.batch_flips:
            said.append(f"{self.batch_flips} tags depend on who shares the batch")
        return said

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


def measure(exact: Graphs, final: Graphs, texts: Sequence[Text], labels: LabelSet, *, gold: bool) -> Figures:
    """Compare two pairs of encoder and head on `texts`; `gold` says whether their tags are for scoring."""
    before, after = (graphs.tags([[text] for text in texts]) for graphs in (exact, final))
    alone = {id(text): np.stack(tags) for text, tags in zip(texts, after, strict=True)}
    by_length = sorted(texts, key=lambda text: len(text.ids))
    strides = range(-(-len(texts) // BATCH))
    batches = [by_length[first :: len(strides)] for first in strides]  # short ones beside long ones
    together = final.tags(batches)
    mixed = [text for batch in batches for text in batch]
    tokens = sum(len(text.ids) for text in texts)
    names = ("served", "local")
    flips = {
        name: sum(int((a[way] != b[way]).sum()) for a, b in zip(before, after, strict=True)) / max(1, tokens)
        for way, name in enumerate(names)
    }
    scores = {
        name: (f1(texts, [one[way] for one in before], labels), f1(texts, [one[way] for one in after], labels))
        for way, name in enumerate(names)
    }
    changed = sum(int((alone[id(text)] != np.stack(tags)).sum()) for text, tags in zip(mixed, together, strict=True))
    return Figures(len(texts), tokens, flips, scores if gold else None, changed)
