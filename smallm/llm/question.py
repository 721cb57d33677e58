"""From a text to all the requests that could answer it: redacted, for each endpoint, in each response format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from smallm.formats import read_documents
from smallm.llm.demonstrations import NearestDemonstrations
from smallm.llm.prompt import Prompt
from smallm.llm.reading import reader
from smallm.llm.redact import Redactor, read_terms
from smallm.llm.request import RECORDED, Asking, Request, asking
from smallm.llm.response_format import ladder
from smallm.llm.settings import BridgeSettings

IMPORTED = -1  # stands for an endpoint where the answer was recorded elsewhere


@dataclass(frozen=True)
class Candidate:
    """A request and the endpoint (its place in the settings) that it goes to."""

    endpoint: int
    asking: Asking
    text: str

    @cached_property
    def key(self) -> str:
        """The request's key; a hit needs no more of it."""
        return self.asking.key(self.text)

    @cached_property
    def request(self) -> Request:
        """What would be sent."""
        return self.asking.request(self.text)


@dataclass(frozen=True)
class Question:
    """A text's candidates in order of preference; `text` as sent. `bare`: redaction left nothing to ask about."""

    domain: str
    types: tuple[str, ...]
    text: str
    candidates: tuple[Candidate, ...]
    redactions: Mapping[str, int] = field(default_factory=dict)
    bare: bool = False

    @cached_property
    def keys(self) -> list[str]:
        """Keys of all candidates."""
        return [candidate.key for candidate in self.candidates]

    @cached_property
    def reader(self) -> str:
        """See `smallm.llm.reading.reader`."""
        return reader(self.types)

    def requests(self, endpoint: int) -> list[Request]:
        """One endpoint's requests, the strictest response format first."""
        return [candidate.request for candidate in self.candidates if candidate.endpoint == endpoint]


class Questions:
    """Makes questions as the settings say."""

    def __init__(self, settings: BridgeSettings) -> None:
        """Raises DataError if a dictionary or a file of demonstrations cannot be read."""
        privacy = settings.privacy
        terms = read_terms(privacy.dictionaries)
        self._redactor = Redactor(privacy.redact, privacy.patterns, terms, privacy.allow)
        self._endpoints = [(one.asks, ladder(one.response_format)) for one in settings.endpoint]
        self._nearest = {
            domain: NearestDemonstrations(read_documents(chosen.train), chosen.count)
            for domain, chosen in settings.demonstrations.items()
        }

    def about(self, prompt: Prompt, text: str) -> Question:
        """The question for `text`. Imported answers are looked up by the text and prompt as they are."""
        redacted = self._redactor.redact(text)
        nearest = self._nearest.get(prompt.domain)
        told = self._redactor.prompt(nearest.choose(prompt, text) if nearest else prompt)
        asked = [
            Candidate(index, asking(model, told, form), redacted.text)
            for index, (model, forms) in enumerate(self._endpoints)
            for form in forms
        ]
        candidates = (*asked, Candidate(IMPORTED, asking(RECORDED, prompt), text))
        return Question(prompt.domain, prompt.type_names, redacted.text, candidates, redacted.counts, redacted.bare)
