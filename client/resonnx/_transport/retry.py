"""Decides retries of calls that a server refused under load or that did not reach one of several servers.

A call is retried before its deadline and within a budget; one that was refused, if the server invites it. Where there
is one server only, gRPC itself retries calls that do not reach it, except streams of requests (channel.py).
"""

import math
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Final, TypeAlias

import grpc

from resonnx._errors import Overloaded, Unavailable, from_rpc_error


class ClientDefault(Enum):
    """Type of the default of `timeout_s`, as None means no limit."""

    TIMEOUT = "the client's timeout_s"

    def __repr__(self) -> str:
        return self.value


Timeout: TypeAlias = "float | ClientDefault | None"
"""Seconds; None for no limit; the default for the client's timeout."""


class RetryBudget:
    """A token bucket that limits retries to one in ten calls, so that retries do not add to an overload.

    It starts full: of n calls, at most `burst + n / CALLS_PER_RETRY` are retried. Thread-safe.

    Args:
        burst: Most retries that are saved.
    """

    CALLS_PER_RETRY = 10
    BURST = 10

    def __init__(self, burst: int = BURST) -> None:
        self._lock = threading.Lock()
        # Counted in calls, not in retries, to avoid fractions.
        self._saved_calls = self._capacity = burst * self.CALLS_PER_RETRY

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


class Budgets:
    """A client's two retry budgets: for calls refused under load (`refused`), and for lost connections (`unreached`).

    The second is larger: all calls that a server has when it dies are retried at once.
    """

    def __init__(self) -> None:
        self.refused = RetryBudget()
        self.unreached = RetryBudget(burst=100)

    def deposit(self) -> None:
        """Count one call."""
        self.refused.deposit()
        self.unreached.deposit()


# Least attempts of a call that gRPC does not retry. From the second round of the servers on, pauses double.
_LEAST_ATTEMPTS: Final = 3
_FIRST_PAUSE_S: Final = 0.05

# About 30 years: gRPC counts ns since 1970 and ends calls with a deadline beyond 2^63 at once.
_LONGEST_S: Final = 1e9


class Attempts:
    """The attempts of one call, which share a deadline.

    Args:
        timeout_s: Seconds until the deadline, over 0; None for no deadline.
        budgets: The client's budgets, in which this call is counted.
        servers: Number of the servers.
        by_grpc: gRPC itself retries this call if it does not reach the only server.
        clock: Returns monotonic seconds.

    Raises:
        ValueError: `timeout_s` is not positive and finite.
    """

    def __init__(
        self,
        timeout_s: float | None,
        budgets: Budgets,
        servers: int = 1,
        *,
        by_grpc: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if timeout_s is not None and not 0 < timeout_s < math.inf:
            raise ValueError(f"timeout_s must be a number over 0, or None for no limit, got {timeout_s}")
        self._clock = clock
        self._deadline = None if timeout_s is None or timeout_s > _LONGEST_S else clock() + timeout_s
        self._budgets = budgets
        self._servers = servers
        self._by_grpc = by_grpc and servers == 1
        self._unreached = 0
        self._final = False
        budgets.deposit()

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
        pause, budget = outcome.retry_after_s, self._budgets.refused
        if isinstance(outcome, Unavailable):
            pause, budget = self._pause_unreached_s(), self._budgets.unreached
        elif not isinstance(outcome, Overloaded):
            pause = None
        left = self.remaining_s()
        late = pause is not None and left is not None and pause >= left
        if self._final or pause is None or late or not budget.withdraw():
            raise outcome from error
        return pause

    def _pause_unreached_s(self) -> float | None:
        """Return the pause before the next server is asked; None if gRPC has asked the only one, or each was asked."""
        self._unreached += 1
        if self._by_grpc or self._unreached >= max(self._servers, _LEAST_ATTEMPTS):
            return None
        rounds = self._unreached - self._servers
        return 0.0 if rounds < 0 else _FIRST_PAUSE_S * 2**rounds
