"""When the requests of an open loop are due. Pure."""

import random
from collections.abc import Iterator


def poisson(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Yield the arrival times of a Poisson process, in seconds from 0 and below `seconds`.

    Args:
        rate: Arrivals a second, on average.
        seconds: The schedule's length.
        seed: Equal seeds give equal schedules.
    """
    rng = random.Random(seed)
    due = rng.expovariate(rate)
    while due < seconds:
        yield due
        due += rng.expovariate(rate)
