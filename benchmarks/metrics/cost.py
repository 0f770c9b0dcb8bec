"""Processor time per answer of metrics, as the ratio of two ways to start the server.

    python benchmarks/metrics/cost.py [--model small] [--rounds 15] [--flags "--prediction-metrics"]
        [--against "--no-prediction-metrics"]

Two servers take turns within each round, in changing order, under the same closed loop of tensors (processor_time.py).
Shown is the median of the rounds' ratios of processor time per answer, with a 95 % interval by bootstrap.
"""

import argparse
import random
import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from load.generator import Generator, find_perf_analyzer
from processor_time import watch
from random_models.classifiers import repository
from rows.setting import CALLERS, Setting

_ROLES = {"small": "small", "resnet50_int8": "big"}
_WAYS = ("unary", "stream")
_DRAWS = 10_000


def interval(ratios: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the median, by bootstrap of the rounds."""
    rng = random.Random(seed)
    medians = sorted(median(rng.choices(ratios, k=len(ratios))) for _ in range(_DRAWS))
    return medians[_DRAWS // 40], medians[-_DRAWS // 40]


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small", choices=tuple(_ROLES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=3.0, help="for which each server is watched")
    parser.add_argument("--flags", default="--prediction-metrics", help="flags of the one server")
    parser.add_argument("--against", default="--no-prediction-metrics", help="flags of the other")
    given = parser.parse_args()
    models = repository((given.model,))
    generator, role = Generator(find_perf_analyzer(None), given.seconds), _ROLES[given.model]
    ratios: dict[str, list[float]] = defaultdict(list)
    with Setting(models, "resnet50_int8", generator) as setting:
        name = setting.names[role]
        for number in range(given.rounds):
            used: dict[tuple[str, str], float] = {}
            sides = (given.flags, given.against)
            for flags in sides if number % 2 else reversed(sides):
                with setting.serving([name], *shlex.split(flags)) as server:
                    for way in _WAYS:
                        with setting.generator.loading(
                            server.grpc, name, CALLERS[role], stream=way == "stream"
                        ) as client:
                            usage = watch(server, name, client, given.seconds)
                        used[flags, way] = usage.loop_us + usage.others_us
            for way in _WAYS:
                ratios[way].append(used[given.flags, way] / used[given.against, way])
                print(f"{way}: {ratios[way][-1]:.4f}", file=sys.stderr, flush=True)
    for way, of_rounds in ratios.items():
        low, high = interval(of_rounds)
        print(f"{way}: {median(of_rounds):.4f} ({low:.4f} to {high:.4f}) of the time with {given.against}")


if __name__ == "__main__":
    main()
