"""By how much predictions are off: follows what became of requests, so that nine in ten that are let in are in time."""

from collections.abc import Callable
from typing import Final

from resonnx_server.scheduling.freshness import Freshness

# The share of requests at the limit that should be in time, and how fast that is learnt.
_IN_TIME: Final = 0.9
_RATE: Final = 0.05
_BOUNDS: Final = (0.5, 4.0)
# Only predictions of so much of what was allowed tell how far the limit is right.
_NEAR_THE_LIMIT: Final = 0.5


class Correction:
    """A quantile of actual to predicted time, followed by small steps (Robbins-Monro).

    Forgotten when nobody has taught it for a while, or a bad moment would refuse for ever.

    Args:
        clock: Monotonic ns.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._factor = 1.0
        self._age = Freshness(clock)

    @property
    def factor(self) -> float:
        """What to multiply a prediction with, so that nine in ten requests take no longer."""
        self._factor = 1 + (self._factor - 1) * self._age.kept()
        return self._factor

    def learn(self, expected_ns: float, allowed_ns: float, took_ns: float | None) -> None:
        """Take note of a request.

        Args:
            expected_ns: As predicted, before correction.
            allowed_ns: The time that it had.
            took_ns: Until it was answered; None if time ran out before.
        """
        predicted_ns = expected_ns * self.factor
        if predicted_ns < _NEAR_THE_LIMIT * allowed_ns:
            return
        step = _RATE * (_IN_TIME if took_ns is None or took_ns > predicted_ns else _IN_TIME - 1)
        least, most = _BOUNDS
        self._factor = min(max(self._factor * (1 + step), least), most)
        self._age.renew()
