"""Processor time of counting alone, in µs an answer: what the metrics of requests, batches and predictions take.

    python benchmarks/metrics/counting.py [--answers 200000]

The calls that the server makes for each answer run in a loop, with batches of 4 rows; processor_time.py has the
server's whole time of an answer. Shown are medians over 9 repetitions, and the least.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Final

import numpy as np
from resonnx_server.observe.series.predictions import Predictions
from resonnx_server.observe.stats import BatchCount, Dispatch, ModelStats, Timing

_ROWS: Final = 4
_REPETITIONS: Final = 9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=200_000)
    given = parser.parse_args()
    stats = ModelStats()
    timing, count = (
        Timing(300_000, 20_000, 500_000, 5_000, _ROWS, 10**12),
        BatchCount(4, 4, 1, 5, 1, Dispatch.FULL, 5.0),
    )

    def requests() -> None:
        for _ in range(given.answers):
            stats.request_done(timing, 10**12 - 400_000, 10**12 + 900_000, 50_000)

    def traced() -> None:
        for _ in range(given.answers):
            stats.request_done(timing, 10**12 - 400_000, 10**12 + 900_000, 50_000, "0af7651916cd43dd8448eb211c80319c")

    def batches() -> None:
        for _ in range(given.answers // _ROWS):
            stats.batch_done(count)

    def predictions(classes: int) -> Callable[[], None]:
        counted = Predictions([str(i) for i in range(classes)])
        rows = np.random.default_rng(0).dirichlet(np.ones(classes), _ROWS).astype(np.float32)

        def count_all() -> None:
            for _ in range(given.answers // _ROWS):
                counted.add(rows)

        return count_all

    for name, work in {
        "a request": requests,
        "a request with a sampled trace": traced,
        "its part of a batch of 4 rows": batches,
        "its prediction among 10 classes": predictions(10),
        "its prediction among 1,000 classes": predictions(1000),
    }.items():
        times = []
        for _ in range(_REPETITIONS):
            began = time.thread_time_ns()
            work()
            times.append((time.thread_time_ns() - began) / given.answers / 1e3)
        print(f"{name}: {median(times):.2f} us ({min(times):.2f})")


if __name__ == "__main__":
    main()
