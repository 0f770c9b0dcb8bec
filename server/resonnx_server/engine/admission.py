"""Refuses on arrival what cannot be answered in time: predicted wait against the caller's deadline.

Computing an answer that comes too late takes the device from requests that could still be in time.
"""

from dataclasses import dataclass

from resonnx_server.engine.device import Device
from resonnx_server.errors import DeadlineUnreachable


@dataclass(frozen=True)
class Objective:
    """What a model should keep.

    Attributes:
        latency_ns: From arrival to answer. Steers batch sizes and whose turn it is.
        shed: Refuse also what would miss it.
    """

    latency_ns: int
    shed: bool = False


class DeadlineAdmission:
    """Compares a prediction with a deadline. Called under the device's lock.

    Args:
        device: What else it has to do.
        objective: The model's, if it has one.
    """

    def __init__(self, device: Device, objective: Objective | None) -> None:
        self._device = device
        self._shed_after_ns = objective.latency_ns if objective is not None and objective.shed else None

    def has_limit(self, deadline_ns: int | None) -> bool:
        """Tell whether a request has to be checked at all."""
        return deadline_ns is not None or self._shed_after_ns is not None

    def check(self, own_wait_ns: float, deadline_ns: int | None) -> None:
        """Raise DeadlineUnreachable if a request that came now would be late.

        Args:
            own_wait_ns: Expected time of the model's queue before it, and of its own batch.
            deadline_ns: The caller's, monotonic.
        """
        now = self._device.clock()
        limits = [] if deadline_ns is None else [deadline_ns - now]
        if self._shed_after_ns is not None:
            limits.append(self._shed_after_ns)
        allowed = min(limits)
        predicted = self._device.under_way_ns(now) + own_wait_ns
        if predicted > allowed:
            raise DeadlineUnreachable(
                f"the answer would take {predicted / 1e6:.0f} ms and is wanted within {max(allowed, 0) / 1e6:.0f} ms"
            )
