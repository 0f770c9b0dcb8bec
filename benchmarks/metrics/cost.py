"""Processor time per answer of metrics, as the ratio of two ways to start the server.

    python benchmarks/metrics/cost.py [--model small] [--rounds 15] [--flags=--prediction-metrics]
        [--against=--no-prediction-metrics]

Two servers run side by side, each under the same closed loop of tensors (processor_time.py), so that both have the
machine of the same moment. As the server that starts first claims the processors for its lanes, a second series has
them in the other order, and a figure is the geometric mean of one round of each. Shown is the median of the figures,
with a 95 % interval by bootstrap.
"""

import argparse
import math
import random
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from load.generator import Generator, find_perf_analyzer
from metrics.usage import watch
from random_models.classifiers import repository
from rows.setting import CALLERS, Setting

_ROLES = {"small": "small", "resnet50_int8": "big"}
_DRAWS = 10_000


def interval(ratios: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the median, by bootstrap of the rounds."""
    rng = random.Random(seed)
    medians = sorted(median(rng.choices(ratios, k=len(ratios))) for _ in range(_DRAWS))
    return medians[_DRAWS // 40], medians[-_DRAWS // 40]


def series(setting: Setting, role: str, flags: Sequence[str], rounds: int, seconds: float) -> list[dict[str, float]]:
    """Return for each round the processor time of an answer, µs, by the flags of servers that start in this order."""
    name, found = setting.names[role], list[dict[str, float]]()
    with ExitStack() as stack:
        servers = {each: stack.enter_context(setting.serving([name], *shlex.split(each))) for each in flags}
        clients = {
            each: stack.enter_context(setting.generator.loading(server.grpc, name, CALLERS[role], stream=False))
            for each, server in servers.items()
        }
        with ThreadPoolExecutor(len(servers)) as threads:
            for _ in range(rounds):
                watches = {
                    each: threads.submit(watch, server, name, clients[each], seconds)
                    for each, server in servers.items()
                }
                usages = {each: watching.result() for each, watching in watches.items()}
                found.append({each: usage.loop_us + usage.others_us for each, usage in usages.items()})
                print({each: round(us) for each, us in found[-1].items()}, file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small", choices=tuple(_ROLES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=3.0, help="for which both servers are watched")
    parser.add_argument("--flags", default="--prediction-metrics", help="flags of the one server")
    parser.add_argument("--against", default="--no-prediction-metrics", help="flags of the other")
    given = parser.parse_args()
    models = repository((given.model,))
    generator, role = Generator(find_perf_analyzer(None), given.seconds), _ROLES[given.model]
    order = (given.flags, given.against)
    with Setting(models, "resnet50_int8", generator) as setting:
        both = [series(setting, role, flags, given.rounds, given.seconds) for flags in (order, order[::-1])]
    ratios = [
        math.sqrt(math.prod(used[given.flags] / used[given.against] for used in rounds))
        for rounds in zip(*both, strict=True)
    ]
    low, high = interval(ratios)
    print(f"{median(ratios):.4f} ({low:.4f} to {high:.4f}) of the time with {given.against}")


if __name__ == "__main__":
    main()
