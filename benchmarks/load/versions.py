"""This version against another one of this project, in turns: callers of the small model, and of ResNet-50 int8.

    git worktree add ../before main~20
    PYTHONPATH=benchmarks python benchmarks/load/versions.py --before ../before [--rounds 5] [--rows lone,4,16]

    lone         one caller of the small model (ResNet-18 at 32x32), unary: p50 and p99, ms
    lone-stream  the same on a stream
    lone-big     one caller of ResNet-50 int8, unary
    4, 16, ...   so many callers of the small model, unary: answers a second, and p99
    MODEL:4      so many callers of another model of `random_models/classifiers.py`
    floor        ONNX Runtime alone, one row in the fastest way: median, ms

Per round each version starts a server, with the same latency tables, so that they choose the same sessions. Both stay
up, and for each row they are loaded one after the other, in alternating order. Without --before only this version is
measured. With --starts each start measures anew. With --before-models the other version serves those files, and before
each row ONNX Runtime alone runs them in the three ways that were the fastest of all in the first one: this version's
answers a second are shown as a share of those of the way with the highest median. An int8 model that is not among those
files is compared with the fp32 one.

With --processor-time, processor time is measured in place of p99, of server and client together per answer: it can be
compared where other work holds the cores. The share of the floor is then that of processor time.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from floor.ways import Measured, Way, all_ways, single_ways
from floor.ways import measure as measure_ways
from load.generator import Generator, find_perf_analyzer
from load.server_process import Serving, serving
from metrics.usage import watch
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

    def floors(self, name: str) -> dict[str, Measured]:
        """Return what the ways give that were the fastest in the first call, by their names."""
        file, precision = self._models / name / "1/model.onnx", _precision(name)
        if name not in self._ways:
            tried = measure_ways(file, CPU, precision, all_ways(CPU, usable_cores()), _TRIAL_S)
            tried.sort(key=lambda each: each.rate, reverse=True)
            self._ways[name] = [each.way for each in tried[:_FINALISTS]]
        found = measure_ways(file, CPU, precision, self._ways[name], self._seconds / len(self._ways[name]))
        return {_way(each.way): each for each in found}


def _way(way: Way) -> str:
    return f"{way.callers} x {way.threads} threads{', spinning' * way.spin}, batch {way.batch}"


def _link(folder: Path, models: Path, names: Sequence[str]) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to((models / name).resolve())
    return folder


class _Turns:
    """Rounds in which the versions' servers run side by side, and take turns at every row.

    A shared machine's speed changes within minutes, so both versions are measured within seconds of each other.
    """

    def __init__(self, given: argparse.Namespace, rows: Sequence[str], generator: Generator, folder: Path) -> None:
        self._given, self._rows, self._generator, self._folder = given, rows, generator, folder
        self._names = sorted({_model(row) for row in rows})
        self._served = {"this": _link(folder / "models", repository(tuple(self._names)), self._names)}
        self._versions: dict[str, Path | None] = {"this": None}
        self._earlier = _Earlier(given.before_models, given.seconds) if given.before_models else None
        self._others = {name: self._earlier.name(name) if self._earlier else name for name in self._names}
        if given.before is not None:
            self._versions["before"] = given.before.resolve()
            self._served["before"] = self._served["this"]
            if self._earlier:
                self._served["before"] = _link(folder / "before", given.before_models, sorted({*self._others.values()}))
        self._measure = _processor_time if given.processor_time else _measure
        self._against: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._floors: dict[str, list[dict[str, Measured]]] = {row: [] for row in rows}
        self.rounds = Rounds("row", "figure", "version")

    def run(self) -> None:
        """Measure all rounds and print the table."""
        for number in range(self._given.rounds):
            self._round(number)
        for row in self._rows:
            self._note_shares(row)
        self.rounds.show(self._against)

    def _round(self, number: int) -> None:
        for name in self._names:
            ms = _floor_ms(self._served["this"], name, self._given.seconds / 6)
            self.rounds.add("floor", f"{name} ms", "-", value=ms)
        cache = self._folder / (f"cache-{number}" if self._given.starts else "cache")
        with ExitStack() as servers:
            running = {}
            for version in self._in_order(number):
                # Without new starts both choose the same sessions.
                own = f"{cache}-{version}" if self._given.starts else str(cache)
                flags = ("--cache-dir", own, *self._given.flags.split())
                started = serving(self._served[version], *flags, checkout=self._versions[version])
                running[version] = servers.enter_context(started)
            for turn, row in enumerate(self._rows):
                if self._earlier and row not in _LONE:
                    self._floors[row].append(self._earlier.floors(self._others[_model(row)]))
                for version in self._in_order(number + turn):
                    self._row(running[version], version, row, number)

    def _in_order(self, turn: int) -> list[str]:
        return [*self._versions][:: -1 if turn % 2 else 1]

    def _row(self, server: Serving, version: str, row: str, number: int) -> None:
        model = _model(row) if version == "this" else self._others[_model(row)]
        for figure, value in self._measure(server, self._generator, row, model).items():
            self.rounds.add(row, figure, version, value=value)
            print(f"round {number + 1}: {version} {row} {figure}: {value:.3f}", file=sys.stderr, flush=True)
            if version == "before":
                self._against[row, figure, "this"] = row, figure, "before"

    def _note_shares(self, row: str) -> None:
        """Note each round's share of the floor: of the way that was the fastest by the median of the rounds."""
        floors = self._floors[row]
        if not floors:
            return
        best = max(floors[0], key=lambda way: median(found[way].rate for found in floors))
        for found in floors:
            self.rounds.add(f"{row}: floor", f"rows/s, {best}", "before", value=found[best].rate)
            self.rounds.add(f"{row}: floor", "processor us", "before", value=found[best].row_us)
        for figure in ("answers/s", "processor us"):
            values = self.rounds.values(row, figure, "this")
            for value, found in zip(values, floors, strict=bool(values)):
                share = _share(figure, value, found[best])
                assert share is not None
                self.rounds.add(row, figure, "this, of the floor", value=share)


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
        turns = _Turns(given, given.rows.split(","), generator, Path(folder))
        turns.run()
    if given.json:
        turns.rounds.write(given.json, generator=generator.name)


if __name__ == "__main__":
    main()
