"""How long a round of the engine takes, learnt from the rounds it has run."""

from __future__ import annotations

FADING = 0.95  # weight of the rounds before, at each new one: some twenty count
LEAST_SLOPE = 0.25  # of the mean seconds a token: rounds of one size say nothing about others


class Pace:
    """Seconds of a round as `overhead + tokens * slope`, by least squares over past rounds, old ones fading."""

    def __init__(self) -> None:
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    @property
    def known(self) -> bool:
        """Whether any round was seen."""
        return self._weight > 0

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn from a round."""
        for name, value in (("_weight", 1.0), ("_x", tokens), ("_y", seconds), ("_xx", tokens**2)):
            setattr(self, name, FADING * getattr(self, name) + value)
        self._xy = FADING * self._xy + tokens * seconds

    def seconds(self, tokens: float, rounds: float = 1) -> float:
        """What `tokens` in `rounds` rounds will take; 0 while nothing is known."""
        if not self.known:
            return 0.0
        x, y = self._x / self._weight, self._y / self._weight
        variance = self._xx / self._weight - x * x
        covariance = self._xy / self._weight - x * y
        mean = y / x
        slope = min(mean, max(LEAST_SLOPE * mean, covariance / variance if variance > 1e-9 * x * x else mean))
        return rounds * (y - slope * x) + tokens * slope
