"""The schedule of an open loop."""

import random
from collections.abc import Iterator


def poisson(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Yield the arrival times of a Poisson process, in seconds from 0.

    Args:
        rate: Mean arrivals per second.
        seconds: Length of the schedule.
        seed: Seed of the random numbers.
    """
    rng = random.Random(seed)
    due = rng.expovariate(rate)
    while due < seconds:
        yield due
        due += rng.expovariate(rate)
