"""The frozen encoder in an experiment: every text goes through it once, however many subsets hold it."""

from __future__ import annotations

from collections.abc import Sequence

from smallm.encoder import Encoder
from smallm.tokenization import Tokens
from smallm_train.features import Features, FrozenEncoder


class PooledEncoder(FrozenEncoder):
    """A FrozenEncoder that remembers the hidden states of a pool of texts.

    The cache on disk is keyed by a whole list of texts; without the pool each subset and fold would be
    encoded, and kept, anew.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        self._pool: dict[tuple[int, ...], Features] = {}

    def fill(self, texts: Sequence[str]) -> None:
        """Encode the texts of a dataset, or read them from the cache; what was in the pool is forgotten."""
        tokens = self.tokenizer.encode_batch(list(texts))
        states = super().features(tokens)
        self._pool = {tuple(one.ids): state for one, state in zip(tokens, states, strict=True)}

    def features(self, texts: Sequence[Tokens], title: str = "encoding", *, keep: bool = True) -> list[Features]:
        """See FrozenEncoder.features."""
        if all(tuple(tokens.ids) in self._pool for tokens in texts):
            return [self._pool[tuple(tokens.ids)] for tokens in texts]
        return super().features(texts, title, keep=keep)
