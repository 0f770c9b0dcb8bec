"""For how long work keeps all other threads from running."""

import threading
import time
from collections.abc import Callable
from itertools import pairwise


def longest_hold_s(work: Callable[[], object]) -> float:
    """Return how much of the processor's time `work` takes, at most, between two turns of another thread."""
    clock, over = time.pthread_getcpuclockid(threading.get_ident()), threading.Event()
    seen = [time.clock_gettime(clock)]

    def look() -> None:
        while not over.is_set():
            seen.append(time.clock_gettime(clock))
            time.sleep(0.001)

    looking = threading.Thread(target=look)
    looking.start()
    work()
    over.set()
    looking.join()
    return max(after - before for before, after in pairwise(seen))
