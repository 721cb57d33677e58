"""A loaded bundle: texts and LLM answers in, entities out. Knows no transport."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from smallm import bundle
from smallm.bundle import Manifest
from smallm.crf import Array
from smallm.documents import Span
from smallm.fusion import Entity, Way
from smallm.llm.prompt import Prompt
from smallm.tokenization import PackedTokens, TextTokenizer, Tokens
from smallm_runtime.heads import Encoded, Head, Recognized, recognize_all
from smallm_runtime.profile import Profile, untuned
from smallm_runtime.sessions import open_session
from smallm_runtime.stretches import Stretch, Stretches
from smallm_runtime.variants import choose

LONG_TEXT = 4096  # code points from which a text's tokens are packed


@dataclass(frozen=True)
class Item:
    """One text to recognise. `answer` are the LLM's spans, None if absent; `way` None takes the domain's."""

    text: str
    domain: str = ""
    answer: Sequence[Span] | None = None
    way: Way | None = None


@dataclass(eq=False)
class Work:
    """A text on its way: `result` is there when it is done; `stretches` is the engine's."""

    item: Item
    result: Recognized | None = None
    stretches: Stretches | None = None


class Engine:
    """Encoder, heads and tokenizer of one bundle. Thread-safe."""

    def __init__(self, folder: Path, manifest: Manifest, variant: str, device: str, profile: Profile) -> None:
        self.manifest, self.variant, self.profile = manifest, variant, profile
        self._tokenizer = TextTokenizer.load(folder)
        encoder = folder / bundle.encoder_file(variant)
        self._encoder = open_session(encoder, profile.threads, device, profile.spinning, profile.arena)
        self._heads = {
            name: Head.load(folder, name, domain, manifest.graphs(name, variant)[1])
            for name, domain in manifest.domains.items()
        }

    @classmethod
    def load(
        cls,
        folder: Path,
        threads: int | None = None,
        device: str = "cpu",
        profile: Profile | None = None,
        variant: str = "",
    ) -> Engine:
        """Verify and load the bundle in `folder`. Raises ArtifactError.

        `profile` None is `untuned`; `threads` makes it one round at a time on so many; `variant` '' takes what
        suits the device (see `variants.choose`).
        """
        manifest = bundle.read(folder)
        profile = profile or untuned(manifest.encoder.hidden, device)
        if threads:
            profile = replace(profile, threads=threads, parallel=1)
        return cls(folder, manifest, choose(manifest, device, variant), device, profile)

    @property
    def domains(self) -> list[str]:
        """Names of the heads."""
        return list(self._heads)

    def domain(self, name: str) -> str:
        """The full name of a domain; '' is the only one. Raises UnknownDomainError."""
        return self.manifest.domain(name)[0]

    def types(self, domain: str) -> list[str]:
        """Entity types of a domain."""
        return self.manifest.domain(domain)[1].types

    def way(self, domain: str) -> Way:
        """How the domain answers where there is an LLM answer, as chosen on dev."""
        return self._heads[self.domain(domain)].way

    def prompt(self, domain: str) -> Prompt | None:
        """What the LLM is told; None if the domain was trained without one."""
        return self._heads[self.domain(domain)].prompt

    def recognize(self, items: Sequence[Item]) -> list[list[Entity]]:
        """Entities of each item, ascending; items may mix domains. Raises UnknownDomainError."""
        return [recognized.entities for recognized in self.run(items)]

    def run(self, items: Sequence[Item]) -> list[Recognized]:
        """As `recognize`, with the local model's confidences. Raises UnknownDomainError."""
        works = [Work(item) for item in items]
        waiting = works
        while waiting:
            sizes = accumulate(len(work.item.text) for work in waiting)
            self.step(waiting[: max(1, sum(size <= self.profile.round_tokens for size in sizes))])
            waiting = [work for work in waiting if work.result is None]
        return [work.result for work in works if work.result is not None]

    def step(self, works: Sequence[Work]) -> None:
        """Take each text further: a short one to its end, one of more tokens than a round by a round's worth.

        If it raises, none was taken further. Raises UnknownDomainError.
        """
        heads = [self._heads[self.domain(work.item.domain)] for work in works]
        ways = self._begin(works)
        parts = [way.parts() for way in ways]
        outputs = iter(self._encode_once([tuple(part) for of_one in parts for part in of_one]))
        stretches = [
            way.read([next(outputs) for _ in of_one]) if of_one else None
            for way, of_one in zip(ways, parts, strict=True)
        ]
        found = self._decide(works, stretches, heads)
        for work, way, stretch, recognized in zip(works, ways, stretches, found, strict=True):
            if stretch is not None:
                way.accept(stretch, recognized.entities, recognized.confidence)
            if way.done:
                work.result = Recognized(way.entities, way.confidence)

    def _begin(self, works: Sequence[Work]) -> list[Stretches]:
        """Every text's way, those that have none yet tokenised."""
        fresh = [work for work in works if work.stretches is None]
        short = [work for work in fresh if len(work.item.text) <= LONG_TEXT]
        encoded: dict[Work, Tokens | PackedTokens] = dict(
            zip(short, self._tokenizer.encode_batch([work.item.text for work in short]), strict=True)
        )
        window = self.manifest.encoder.window
        at_once = max(1, self.profile.round_tokens // window)
        for work in fresh:
            tokens = encoded[work] if work in encoded else self._tokenizer.encode_long(work.item.text)
            work.stretches = Stretches(tokens, window, work.item.answer, at_once)
        return [work.stretches for work in works if work.stretches is not None]

    def _decide(
        self, works: Sequence[Work], stretches: Sequence[Stretch | None], heads: Sequence[Head]
    ) -> list[Recognized]:
        """What each text's head makes of its stretch; nothing of a text without tokens."""
        asked = {
            index: (heads[index], Encoded(stretch.features, stretch.offsets, stretch.answer, works[index].item.way))
            for index, stretch in enumerate(stretches)
            if stretch is not None
        }
        found = dict(zip(asked, recognize_all(list(asked.values())), strict=True))
        return [found.get(index, Recognized([], 1.0)) for index in range(len(works))]

    def _encode_once(self, parts: Sequence[tuple[int, ...]]) -> list[Array]:
        """`_encode` of each distinct part: a text asked of several domains is encoded once."""
        distinct = list(dict.fromkeys(parts))
        outputs = dict(zip(distinct, self._encode(distinct), strict=True))
        return [outputs[part] for part in parts]

    def _encode(self, parts: Sequence[Sequence[int]]) -> list[Array]:
        """Hidden states (n, layers, hidden) of each part; parts share a call where padding costs less than a call."""
        order = sorted(range(len(parts)), key=lambda index: len(parts[index]))
        results: dict[int, Array] = {}
        while order:
            longest = len(parts[order[-1]]) + 2
            least = longest - 2 - self.profile.padding_tokens
            most = max(1, self.profile.call_tokens // longest)
            chosen = [index for index in order[-most:] if len(parts[index]) >= least]
            del order[-len(chosen) :]
            stacked = self._encoder.run(None, self._tokenizer.encoder_inputs([parts[index] for index in chosen]))[0]
            for row, index in enumerate(chosen):
                results[index] = stacked[row, 1 : len(parts[index]) + 1]
        return [results[index] for index in range(len(parts))]
