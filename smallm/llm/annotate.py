"""Filling the store ahead of time. What it holds already is not asked again, so a run can be taken up anew."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from smallm.llm.bridge import Bridge
from smallm.llm.limits import Usage, estimate
from smallm.llm.prompt import Prompt
from smallm.llm.question import Question
from smallm.llm.reasons import NEGATIVE, Reason
from smallm.llm.settings import Mode

PATIENCE_S = 600.0  # for one text: nobody waits, but a limit a minute may have to pass
_HOPELESS = frozenset({Reason.OVER_BUDGET, Reason.BREAKER_OPEN, Reason.UNAUTHORIZED, Reason.STORE})
_FINE = NEGATIVE | {Reason.DEMONSTRATION, Reason.PRIVACY}  # asking again would bring the same


@dataclass(frozen=True)
class Plan:
    """What there is to ask, about how many tokens that takes, and its price in millionths."""

    questions: list[Question]
    answered: int
    usage: Usage
    micros: int


@dataclass
class Outcome:
    """Texts by what came of them, and why the run ended early if it did."""

    counts: Counter[str] = field(default_factory=Counter)
    ended: Reason | None = None

    @property
    def left(self) -> int:
        """Texts that another run may find an answer to."""
        done = {"fresh", "cached", *_FINE}
        return sum(count for outcome, count in self.counts.items() if outcome not in done)


async def plan(bridge: Bridge, prompt: Prompt, texts: Iterable[str]) -> Plan:
    """See what the store lacks, and price it at the first endpoint."""
    found = [await bridge.unanswered(prompt, text) for text in dict.fromkeys(texts)]
    questions = [question for question in found if question is not None]
    usages = [estimate(question.requests(0)[0]) for question in questions]
    usage = Usage(sum(one.prompt for one in usages), sum(one.completion for one in usages))
    endpoint = bridge.settings.endpoint[0]
    return Plan(questions, len(found) - len(questions), usage, usage.cost(endpoint))


async def annotate(bridge: Bridge, prompt: Prompt, texts: Sequence[str], advance: Callable[[], None]) -> Outcome:
    """Ask about every text, as many at once as the limits allow; `advance` is called after each.

    Ends early where nothing more can come: over budget, endpoints down, no right to ask.
    """
    outcome = Outcome()
    waiting = iter(dict.fromkeys(texts))

    async def work() -> None:
        for text in waiting:
            if outcome.ended is not None:
                outcome.counts["not_asked"] += 1
                continue
            answer = await bridge.answer(prompt, text, Mode.WAIT, PATIENCE_S)
            outcome.counts[answer.reason or answer.status] += 1
            if answer.reason in _HOPELESS:
                outcome.ended = answer.reason
            advance()

    await asyncio.gather(*(work() for _ in range(bridge.settings.limits.concurrency)))
    return outcome
