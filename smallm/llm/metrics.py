"""What a bridge counts, for Prometheus. A registry of its own: two bridges in a process do not clash."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60)


class Metrics:
    """Labels are names from our own lists and the settings; a text or a key is never one."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"smallm_llm_{name}", text, labels, registry=self.registry)

        self.requests = counter("requests", "Texts by the mode in force", "mode")
        self.answers = counter("answers", "Texts by outcome: fresh, cached, or a reason", "outcome")
        self.asked = counter("asked", "Texts for which the LLM was needed (its share of requests is the share asked)")
        self.coalesced = counter("coalesced", "Texts that waited for a question already asked", "where")
        self.calls = counter("calls", "Calls by endpoint and how they ended: ok or a reason", "endpoint", "outcome")
        self.tokens = counter("tokens", "Tokens by endpoint and direction", "endpoint", "direction")
        self.money = counter("money", "Money spent, in the currency of the configured prices", "endpoint")
        self.redactions = counter("redactions", "Places masked before sending, by rule", "rule")
        self.latency = Histogram(
            "smallm_llm_call_seconds", "One call", ["endpoint"], registry=self.registry, buckets=_SECONDS
        )
        self._breakers = Gauge(
            "smallm_llm_breaker_state", "0 closed, 1 half open, 2 open", ["endpoint"], registry=self.registry
        )

    def breaker(self, endpoint: str, state: Callable[[], float]) -> None:
        """Read a breaker's state whenever it is asked for."""
        self._breakers.labels(endpoint).set_function(state)

    def share_asked(self) -> str:
        """For people: of how many texts how many needed the LLM."""
        samples = (sample for metric in self.requests.collect() for sample in metric.samples)
        texts = sum(sample.value for sample in samples if sample.name.endswith("_total"))
        asked = self.value("asked_total")
        return f"{asked:.0f} of {texts:.0f} texts ({100 * asked / max(1, texts):.1f} %)"

    def value(self, name: str, **labels: str) -> float:
        """A sample by its full name, 0 if there is none yet."""
        return self.registry.get_sample_value(f"smallm_llm_{name}", labels) or 0.0
