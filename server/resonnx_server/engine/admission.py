"""Refuses on arrival what cannot be answered in time: predicted wait against the caller's deadline.

Computing an answer that comes too late takes the device from requests that could still be in time. Predictions are
wrong in their own way on every machine, so what became of them is learnt from: a request is let in if nine of ten like
it made it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from resonnx_server.engine.device import Device
from resonnx_server.engine.latency import LatencyTable
from resonnx_server.errors import DeadlineUnreachable

# The share of requests at the limit that should be in time, and how fast that is learnt.
_IN_TIME: Final = 0.9
_RATE: Final = 0.05
_CAUTION: Final = (0.5, 4.0)
# Only predictions of so much of what was allowed tell how far the limit is right.
_NEAR_THE_LIMIT: Final = 0.5
_FADES_IN_NS: Final = 10_000_000_000


@dataclass(frozen=True)
class Objective:
    """What a model should keep.

    Attributes:
        latency_ns: From arrival to answer. Steers batch sizes and whose turn it is.
        shed: Refuse also what would miss it.
    """

    latency_ns: int
    shed: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """That a request made at `at_ns` (monotonic) would take `expected_ns` of the `allowed_ns`."""

    at_ns: int
    expected_ns: float
    allowed_ns: float


class DeadlineAdmission:
    """Compares a prediction with a deadline. Called under the device's lock.

    Args:
        device: What else it has to do.
        objective: The model's, if it has one.
        tables: What predictions are made of.
    """

    def __init__(self, device: Device, objective: Objective | None, tables: Sequence[LatencyTable] = ()) -> None:
        self._device = device
        self._tables = tables
        self._shed_after_ns = objective.latency_ns if objective is not None and objective.shed else None
        self._caution = 1.0
        self._checked_ns = device.clock()

    def has_limit(self, deadline_ns: int | None) -> bool:
        """Tell whether a request has to be checked at all."""
        return deadline_ns is not None or self._shed_after_ns is not None

    def check(self, own_wait_ns: float, deadline_ns: int | None, decoding_ns: float = 0.0) -> Prediction:
        """Raise DeadlineUnreachable if a request that came now would be late; otherwise return what was predicted.

        Args:
            own_wait_ns: Expected time of the model's queue before it, and of its own batch.
            deadline_ns: The caller's, monotonic.
            decoding_ns: Expected time until its picture is decoded, while the device works off the queue.
        """
        now = self._device.clock()
        self._forget(now)
        limits = [] if deadline_ns is None else [deadline_ns - now]
        if self._shed_after_ns is not None:
            limits.append(self._shed_after_ns)
        allowed = min(limits)
        expected = max(self._device.under_way_ns(now) + own_wait_ns, decoding_ns)
        if (predicted := expected * self._caution) > allowed:
            raise DeadlineUnreachable(
                f"the answer would take {predicted / 1e6:.0f} ms and is wanted within {max(allowed, 0) / 1e6:.0f} ms"
            )
        return Prediction(now, expected, allowed)

    def learn(self, prediction: Prediction, *, too_late: bool) -> None:
        """Take note that the request of `prediction` has ended now: answered, or given up because time ran out.

        Follows a quantile of actual to expected time by small steps (Robbins-Monro).
        """
        predicted_ns = prediction.expected_ns * self._caution
        if predicted_ns < _NEAR_THE_LIMIT * prediction.allowed_ns:
            return
        later = too_late or self._device.clock() - prediction.at_ns > predicted_ns
        least, most = _CAUTION
        step = _RATE * (_IN_TIME if later else _IN_TIME - 1)
        self._caution = min(max(self._caution * (1 + step), least), most)

    def _forget(self, now_ns: int) -> None:
        """What was learnt fades: what refuses all who could teach otherwise must not last."""
        passed_ns, self._checked_ns = now_ns - self._checked_ns, now_ns
        kept = math.exp(-passed_ns / _FADES_IN_NS)
        self._caution = 1 + (self._caution - 1) * kept
        for table in self._tables:
            table.fade(kept)
