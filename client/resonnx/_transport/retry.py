"""Decides retries of calls that the server refused under load: if invited, before the deadline, within a budget.

UNAVAILABLE is retried by gRPC itself, as channel.py configures.
"""

import math
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Final, TypeAlias

import grpc

from resonnx._errors import Overloaded, from_rpc_error, pushback_s


class ClientDefault(Enum):
    """Type of the default of `timeout_s`, as None means no limit."""

    TIMEOUT = "the client's timeout_s"

    def __repr__(self) -> str:
        return self.value


Timeout: TypeAlias = "float | ClientDefault | None"
"""Seconds; None for no limit; the default for the client's timeout."""


class RetryBudget:
    """A token bucket that limits retries to one in ten calls, so that retries do not add to an overload.

    It starts full: of n calls, at most `BURST + n / CALLS_PER_RETRY` are retried. Thread-safe.
    """

    CALLS_PER_RETRY = 10
    BURST = 10

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Counted in calls, not in retries, to avoid fractions.
        self._saved_calls = self._capacity = self.BURST * self.CALLS_PER_RETRY

    def deposit(self) -> None:
        """Count one call."""
        with self._lock:
            self._saved_calls = min(self._saved_calls + 1, self._capacity)

    def withdraw(self) -> bool:
        """Take one retry; returns False if none is left."""
        with self._lock:
            if self._saved_calls < self.CALLS_PER_RETRY:
                return False
            self._saved_calls -= self.CALLS_PER_RETRY
            return True


# About 30 years: gRPC counts ns since 1970 and ends calls with a deadline beyond 2^63 at once.
_LONGEST_S: Final = 1e9


class Attempts:
    """The attempts of one call, which share a deadline.

    Args:
        timeout_s: Seconds until the deadline, over 0; None for no deadline.
        budget: The client's budget, in which this call is counted.
        clock: Returns monotonic seconds.

    Raises:
        ValueError: `timeout_s` is not positive and finite.
    """

    def __init__(
        self, timeout_s: float | None, budget: RetryBudget, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if timeout_s is not None and not 0 < timeout_s < math.inf:
            raise ValueError(f"timeout_s must be a number over 0, or None for no limit, got {timeout_s}")
        self._clock = clock
        self._deadline = None if timeout_s is None or timeout_s > _LONGEST_S else clock() + timeout_s
        self._budget = budget
        self._final = False
        budget.deposit()

    def remaining_s(self) -> float | None:
        """Return the seconds left for the next attempt; None for no limit."""
        return None if self._deadline is None else self._deadline - self._clock()

    def answered(self) -> None:
        """Forbid further attempts, as the caller has received a part of the answer."""
        self._final = True

    def pause_s(self, error: grpc.RpcError) -> float:
        """Return the seconds to wait before the next attempt.

        Raises:
            ResonnxError: The call has failed and is not retried.
        """
        outcome = from_rpc_error(error)
        pause = pushback_s(error) if isinstance(outcome, Overloaded) else None
        left = self.remaining_s()
        late = pause is not None and left is not None and pause >= left
        if self._final or pause is None or late or not self._budget.withdraw():
            raise outcome from error
        return pause
