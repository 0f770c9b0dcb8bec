"""When a call that the server shed is tried again: on its invitation, in time, within a budget.

Decides only: no I/O and no sleep. UNAVAILABLE is not handled here: gRPC retries it by itself, as
_channel.py tells it to.
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
    """The type of the default of `timeout_s`: None is a value of its own, no limit."""

    TIMEOUT = "the client's timeout_s"

    def __repr__(self) -> str:
        return self.value


Timeout: TypeAlias = "float | ClientDefault | None"
"""Seconds; None for no limit; the default, for the client's own."""


class RetryBudget:
    """A token bucket that keeps retries to one in ten calls: clients must not feed an overload.

    It starts full, because a client's first calls deserve their retries too: of n calls, at most
    `BURST + n / CALLS_PER_RETRY` are retried. Safe to share between threads.
    """

    CALLS_PER_RETRY = 10
    BURST = 10

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # In calls, not in retries: whole numbers, so that ten tenths are one.
        self._saved_calls = self._capacity = self.BURST * self.CALLS_PER_RETRY

    def deposit(self) -> None:
        """Count one call."""
        with self._lock:
            self._saved_calls = min(self._saved_calls + 1, self._capacity)

    def withdraw(self) -> bool:
        """Take one retry; False if there is none left."""
        with self._lock:
            if self._saved_calls < self.CALLS_PER_RETRY:
                return False
            self._saved_calls -= self.CALLS_PER_RETRY
            return True


# Some 30 years, which are for ever: gRPC counts ns since 1970, and ends a call at once whose deadline is beyond 2^63.
_LONGEST_S: Final = 1e9


class Attempts:
    """One call of the caller's: the deadline that all its attempts share.

    Args:
        timeout_s: From now to the deadline; a number over 0, or None for none.
        budget: The client's; this call is counted.
        clock: Monotonic seconds.
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
        """Seconds left for the next attempt; None for no limit."""
        return None if self._deadline is None else self._deadline - self._clock()

    def answered(self) -> None:
        """Forbid another attempt: a part of the answer is with the caller."""
        self._final = True

    def pause_s(self, error: grpc.RpcError) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            ResonnxError: There is to be none: this is the call's outcome.
        """
        outcome = from_rpc_error(error)
        pause = pushback_s(error) if isinstance(outcome, Overloaded) else None
        left = self.remaining_s()
        late = pause is not None and left is not None and pause >= left
        if self._final or pause is None or late or not self._budget.withdraw():
            raise outcome from error
        return pause
