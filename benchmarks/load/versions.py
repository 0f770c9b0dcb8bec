"""This version against another one of this project, in turns: callers of the small model, and of ResNet-50 int8.

    git worktree add ../before main~20
    PYTHONPATH=benchmarks python benchmarks/load/versions.py --before ../before [--rounds 5] [--rows lone,4,16]

    lone         one caller of the small model (ResNet-18 at 32x32), unary: p50 and p99, ms
    lone-stream  the same on a stream
    lone-big     one caller of ResNet-50 int8, unary
    4, 16, ...   so many callers of the small model, unary: answers a second, and p99
    MODEL:4      so many callers of another model of `random_models/classifiers.py`
    floor        ONNX Runtime alone, one row in the fastest way: median, ms

Per round each version starts a server, in alternating order; both have the same latency tables, so that they choose the
same sessions. Without --before only this version is measured. With --starts each start measures anew. With
--before-models the other version serves those files, and in each round ONNX Runtime alone runs them in the three ways
that were the fastest of all in the first one: this version's answers a second are shown as a share of the best. An int8
model that is not among those files is compared with the fp32 one.

With --processor-time, processor time is measured in place of p99, of server and client together per answer: it can be
compared where other work holds the cores. The share of the floor is then that of processor time.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from floor.ways import Measured, Way, all_ways, single_ways
from floor.ways import measure as measure_ways
from load.generator import Generator, find_perf_analyzer
from load.server_process import Serving, serving
from processor_time import watch
from random_models.classifiers import repository
from reports.rounds import Rounds
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.session import CPU

_SMALL: Final = "small"
_BIG: Final = "resnet50_int8"
_LONE: Final = {"lone": (_SMALL, False), "lone-stream": (_SMALL, True), "lone-big": (_BIG, False)}
_TRIAL_S: Final = 0.4
_FINALISTS: Final = 3


def _model(row: str) -> str:
    if row in _LONE:
        return _LONE[row][0]
    return row.rpartition(":")[0] or _SMALL


def _measure(server: Serving, generator: Generator, row: str, model: str) -> dict[str, float]:
    """Return the figures of a row by name."""
    callers = 1 if row in _LONE else int(row.rpartition(":")[2])
    found = generator.closed(server.grpc, model, callers, stream=row in _LONE and _LONE[row][1])
    assert found.p50_ms is not None
    assert found.p99_ms is not None
    figures = {"p50 ms": found.p50_ms} if row in _LONE else {"answers/s": found.rate}
    return {**figures, "p99 ms": found.p99_ms}


def _processor_time(server: Serving, generator: Generator, row: str, model: str) -> dict[str, float]:
    callers = int(row.rpartition(":")[2])
    with generator.loading(server.grpc, model, callers, stream=False) as client:
        usage = watch(server, model, client, generator.seconds)
    return {"answers/s": usage.answers_per_s, "processor us": usage.together_us}


def _share(figure: str, value: float, floor: Measured) -> float | None:
    """Return a figure's share of the floor; None for latencies."""
    return {"answers/s": value / floor.rate, "processor us": floor.row_us / value}.get(figure)


def _precision(model: str) -> str:
    return "int8" if model.endswith("_int8") else "fp32"


def _floor_ms(models: Path, name: str, seconds: float) -> float:
    ways = single_ways(CPU, usable_cores())
    found = measure_ways(models / name / "1/model.onnx", CPU, _precision(name), ways, seconds)
    return min(each.run_ms for each in found)


class _Earlier:
    """The other version's files, and how fast ONNX Runtime alone runs them."""

    def __init__(self, models: Path, seconds: float) -> None:
        self._models, self._seconds = models, seconds
        self._ways: dict[str, list[Way]] = {}

    def name(self, model: str) -> str:
        """Return the file that a model of this version is compared with."""
        return model if (self._models / model).exists() else model.removesuffix("_int8")

    def floor(self, name: str) -> Measured:
        """Return the best of the ways that were the fastest in the first call."""
        file, precision = self._models / name / "1/model.onnx", _precision(name)
        if name not in self._ways:
            tried = measure_ways(file, CPU, precision, all_ways(CPU, usable_cores()), _TRIAL_S)
            tried.sort(key=lambda each: each.rate, reverse=True)
            self._ways[name] = [each.way for each in tried[:_FINALISTS]]
        again = measure_ways(file, CPU, precision, self._ways[name], self._seconds)
        return max(again, key=lambda each: each.rate)


def _link(folder: Path, models: Path, names: Sequence[str]) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to((models / name).resolve())
    return folder


def _rounds(given: argparse.Namespace, rows: Sequence[str], generator: Generator, folder: Path) -> Rounds:
    names = sorted({_model(row) for row in rows})
    served = {"this": _link(folder / "models", repository(tuple(names)), names)}
    versions: dict[str, Path | None] = {"this": None}
    earlier = _Earlier(given.before_models, given.seconds / 3) if given.before_models else None
    others = {name: earlier.name(name) if earlier else name for name in names}
    if given.before is not None:
        versions["before"] = given.before.resolve()
        served["before"] = served["this"]
        if earlier:
            served["before"] = _link(folder / "before", given.before_models, sorted({*others.values()}))
    measure = _processor_time if given.processor_time else _measure
    rounds = Rounds("row", "figure", "version")
    against: dict[tuple[str, ...], tuple[str, ...]] = {}
    for number in range(given.rounds):
        for name in names:
            rounds.add("floor", f"{name} ms", "-", value=_floor_ms(served["this"], name, given.seconds / 6))
        floors = {name: earlier.floor(name) for name in sorted({*others.values()})} if earlier else {}
        for version in [*versions][:: -1 if number % 2 else 1]:
            cache = folder / (f"cache-{version}-{number}" if given.starts else "cache")
            flags = ("--cache-dir", str(cache), *given.flags.split())
            with serving(served[version], *flags, checkout=versions[version]) as server:
                for row in rows:
                    model = _model(row) if version == "this" else others[_model(row)]
                    for figure, value in measure(server, generator, row, model).items():
                        rounds.add(row, figure, version, value=value)
                        print(f"round {number + 1}: {version} {row} {figure}: {value:.3f}", file=sys.stderr, flush=True)
                        if version == "before":
                            against[row, figure, "this"] = row, figure, "before"
                        elif floors and (share := _share(figure, value, floors[others[_model(row)]])) is not None:
                            rounds.add(row, figure, "this, of the floor", value=share)
        for name, found in floors.items():
            rounds.add("floor", f"{name} before, rows/s", "-", value=found.rate)
            rounds.add("floor", f"{name} before, processor us", "-", value=found.row_us)
    rounds.show(against)
    return rounds


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of the other version")
    parser.add_argument("--before-models", type=Path, help="repository that the other version exported")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", default="lone,lone-stream,4,16,32")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time of a load")
    parser.add_argument("--starts", action="store_true", help="no latency tables of the start before")
    parser.add_argument("--processor-time", action="store_true", help="in place of p99; for rows of callers")
    parser.add_argument("--flags", default="", help="further flags of resonnx-server, in one string")
    parser.add_argument("--perf-analyzer", type=Path, help="Triton's load generator (the one on PATH, if there is one)")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.processor_time and _LONE.keys() & given.rows.split(","):
        parser.error("--processor-time is for rows of several callers")
    generator = Generator(find_perf_analyzer(given.perf_analyzer), given.seconds)
    with tempfile.TemporaryDirectory() as folder:
        rounds = _rounds(given, given.rows.split(","), generator, Path(folder))
    if given.json:
        rounds.write(given.json, generator=generator.name)


if __name__ == "__main__":
    main()
