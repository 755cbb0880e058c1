"""How long a farmer usually takes to answer: what a hedged read waits before it asks others. Pure."""

from dataclasses import dataclass

UNKNOWN = 0.1
"""Seconds assumed of a farmer that has answered nothing yet."""
FLOOR = 0.02
CEILING = 10.0


@dataclass(slots=True)
class UsualLatency:
    """Mean and mean deviation, smoothed as TCP does for its timer (RFC 6298), in seconds."""

    mean: float = 0.0
    deviation: float = 0.0
    known: bool = False

    def saw(self, seconds: float) -> None:
        if not self.known:
            self.mean, self.deviation, self.known = seconds, seconds / 2, True
            return
        self.deviation += 0.25 * (abs(self.mean - seconds) - self.deviation)
        self.mean += 0.125 * (seconds - self.mean)

    def usual(self) -> float:
        """A time that about nine answers in ten keep to."""
        if not self.known:
            return UNKNOWN
        return min(max(self.mean + 2 * self.deviation, FLOOR), CEILING)
