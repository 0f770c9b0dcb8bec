"""One server process against one for each core, on the same cores.

    PYTHONPATH=benchmarks python benchmarks/load/processes.py [--rounds 3] [--seconds 6] [--json FILE]

Each round sends closed loops of tensors to both in turn, and counts the servers' processor time for each answer and
their memory. With one process a core, each is bound to its core; callers' connections are spread over them. The load
generator runs on the same cores, so throughputs say less than processor time does. docs/scale.md draws conclusions.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from load.generator import Generator
from load.server_process import Serving, serving
from random_models.classifiers import repository
from reports.rounds import Rounds

# Callers of all processes together.
_CALLERS: Final = {"small": 32, "resnet50_int8": 16}
_ONE: Final = "one process"
_EACH: Final = "one a core"


@contextmanager
def _processes(models: Path, ways: list[set[int]]) -> Iterator[list[Serving]]:
    """Run a server on each set of cores until the block ends."""
    own = os.sched_getaffinity(0)
    with ExitStack() as stack:
        found = []
        for cores in ways:
            # Inherited: a server counts its cores at its start.
            os.sched_setaffinity(0, cores)
            try:
                found.append(
                    stack.enter_context(
                        serving(models, "--control-mode", "explicit", "--load-models", ",".join(_CALLERS))
                    )
                )
            finally:
                os.sched_setaffinity(0, own)
        yield found


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--models", type=Path, default=Path("benchmarks/.models"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    models = repository(tuple(_CALLERS), given.models)
    # Not perf_analyzer, which knows one server only.
    generator = Generator(None, given.seconds)
    cores = sorted(os.sched_getaffinity(0))
    ways = {_ONE: [set(cores)], _EACH: [{core} for core in cores]}
    # Two to each server where there is one a core.
    connections = ("--connections", str(2 * len(cores)))
    rounds = Rounds("model", "figure", "way")
    with ExitStack() as stack:
        running = {way: stack.enter_context(_processes(models, sets)) for way, sets in ways.items()}
        for _ in range(given.rounds):
            for model, callers in _CALLERS.items():
                for way, servers in running.items():
                    address = ",".join(server.grpc for server in servers)
                    before = sum(server.processor_s for server in servers)
                    run = generator.bench(address, model, "--concurrency", str(callers), *connections)["runs"][0]
                    spent_s = sum(server.processor_s for server in servers) - before
                    # Processor time is of the warm-up as well.
                    answers = run["per_s"] * (given.seconds + 1.0)
                    rounds.add(model, "answers/s", way, value=run["per_s"])
                    rounds.add(model, "processor us an answer", way, value=1e6 * spent_s / answers)
                    rounds.add(model, "p99 ms", way, value=run["p99_all_ms"])
                    rounds.add(model, "memory MB", way, value=sum(_resident_mb(server.pid) for server in servers))
    rounds.show({(model, figure, _EACH): (model, figure, _ONE) for model, figure, way in _rows(rounds) if way == _EACH})
    if given.json:
        rounds.write(given.json)


def _rows(rounds: Rounds) -> list[tuple[str, str, str]]:
    return [(row["model"], row["figure"], row["way"]) for row in rounds.rows]


if __name__ == "__main__":
    main()
