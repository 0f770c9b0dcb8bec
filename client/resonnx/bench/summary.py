"""Counts the outcomes of requests and computes rates and percentiles."""

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

OK = "OK"
REFUSED = "RESOURCE_EXHAUSTED"
LATE = "DEADLINE_EXCEEDED"


class Tally:
    """The outcomes of a run's requests.

    Args:
        deadline_s: Answers that take longer are late; None for no deadline.
    """

    def __init__(self, deadline_s: float | None = None) -> None:
        self._deadline_s = math.inf if deadline_s is None else deadline_s
        self.codes: Counter[str] = Counter()
        self.messages: dict[str, str] = {}
        self.ok_s = array("d")
        self.refused_s = array("d")
        self.lag_s = array("d")

    def add(self, code: str, latency_s: float, message: str = "") -> None:
        """Count a request that ended with a gRPC status code; the first message of each code is kept."""
        if code == OK and latency_s > self._deadline_s:
            code = LATE
        self.codes[code] += 1
        if code == OK:
            self.ok_s.append(latency_s)
        else:
            self.messages.setdefault(code, message)
        if code == REFUSED:
            self.refused_s.append(latency_s)

    def add_lag(self, lag_s: float) -> None:
        """Record the generator's own delay in sending a request of an open loop."""
        self.lag_s.append(lag_s)


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of a run; times are in ms, None without any value.

    Attributes:
        concurrency: Callers of a closed loop.
        rate: Offered requests per second of an open loop.
        seconds: The measured time, without warm-up.
        per_s: Answers within the deadline per second.
        ok: Answers within the deadline.
        refused: RESOURCE_EXHAUSTED.
        late: Answers after the deadline, and DEADLINE_EXCEEDED.
        errors: Other outcomes, by gRPC status code.
        error_messages: The first message of each code in `errors`.
        p99_all_ms: Over all requests; None if the percentile is a request without an answer within the deadline.
        lag_p99_ms: The generator's own delay, which latencies of an open loop include.
    """

    concurrency: int | None
    rate: float | None
    seconds: float
    per_s: float
    ok: int
    refused: int
    late: int
    errors: dict[str, int]
    error_messages: dict[str, str]
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    p99_all_ms: float | None
    refused_p99_ms: float | None
    lag_p99_ms: float | None

    def keeps(self, p99_ms: float) -> bool:
        """Whether `p99_all_ms` is within this bound; true if nothing was sent."""
        is_empty = not (self.ok or self.refused or self.late or self.errors)
        return is_empty or (self.p99_all_ms is not None and self.p99_all_ms <= p99_ms)


def summarise(tally: Tally, seconds: float, *, concurrency: int | None = None, rate: float | None = None) -> Result:
    """Give a run's figures; `seconds` is the time in which the tally was taken."""
    ok = sorted(tally.ok_s)
    failed = tally.codes.total() - len(ok)
    errors = {code: n for code, n in sorted(tally.codes.items()) if code not in (OK, REFUSED, LATE)}
    return Result(
        concurrency=concurrency,
        rate=rate,
        seconds=seconds,
        per_s=len(ok) / seconds,
        ok=len(ok),
        refused=tally.codes[REFUSED],
        late=tally.codes[LATE],
        errors=errors,
        error_messages={code: tally.messages[code] for code in errors},
        mean_ms=_ms(math.fsum(ok) / len(ok)) if ok else None,
        p50_ms=_ms(percentile(ok, 0.5)),
        p90_ms=_ms(percentile(ok, 0.9)),
        p99_ms=_ms(percentile(ok, 0.99)),
        max_ms=_ms(percentile(ok, 1.0)),
        p99_all_ms=_ms(percentile(ok, 0.99, endless=failed)),
        refused_p99_ms=_ms(percentile(sorted(tally.refused_s), 0.99)),
        lag_p99_ms=_ms(percentile(sorted(tally.lag_s), 0.99)),
    )


def percentile(ordered: Sequence[float], share: float, endless: int = 0) -> float | None:
    """Return the smallest value that at least `share` of all values do not exceed (nearest rank).

    Args:
        ordered: Values, ascending.
        share: Over 0, at most 1.
        endless: Number of further values that are larger than any.

    Returns:
        None without values, or if the percentile is one of the endless values.
    """
    # Rounded, as a product such as 0.99 * 100 may be slightly over the whole number.
    rank = math.ceil(round(share * (len(ordered) + endless), 9))
    return ordered[rank - 1] if 0 < rank <= len(ordered) else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
