"""A process that spends processor time and does nothing with it, for what a busy machine alone takes from others.

python benchmarks/load/burning.py 1.5
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

_PAUSE_S: Final = 0.001


@contextmanager
def burning(share: float) -> Iterator[None]:
    """Spend the time of `share` processors, in a process of its own, until the block ends."""
    with subprocess.Popen([sys.executable, __file__, str(share)]) as process:
        try:
            time.sleep(0.5)
            yield
        finally:
            process.kill()


def _burn(share: float) -> NoReturn:
    """Compute in spans of the length of a client's work on a few answers."""
    threads = math.ceil(share)
    for _ in range(threads - 1):
        if not os.fork():
            break
    each = share / threads
    begin, begin_s = time.perf_counter(), time.process_time()
    while True:
        while time.process_time() - begin_s < each * (time.perf_counter() - begin):
            sum(range(10_000))
        time.sleep(_PAUSE_S)


if __name__ == "__main__":
    _burn(float(sys.argv[1]))
