"""Processor time per request of resonnx, of a bare server, of gRPC without a model, and of the model alone.

    python benchmarks/processor_time.py [--model small] [--rounds 5] [--json FILE]

Per round and way of calling (unary, streams) the same closed loop of tensors is sent to these servers in turn:

    echo plain      grpc.aio's server with the same messages, and no model
    echo aio, core  the same on each front of resonnx (rpc/fronts)
    bare            a queue and a session of one thread for each core, no more (floor/bare_server.py)
    aio, core       resonnx on each front
    … uvloop        the same on uvloop's event loop, where that is installed

Each is measured from its first answers on, while no server starts or stops. The kernel counts the processor time of the
server's event loop, of its other threads and of the load generator. Ratios are within one round, because a shared
machine's speed changes from minute to minute. Floors are the model's rows in ONNX Runtime alone: the fastest way to run
it (floor/ways.py), and the fastest with one row at a time.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from floor import ways as floor
from load.generator import Generator, find_perf_analyzer
from load.server_process import Serving, running
from metrics.usage import Usage, watch
from random_models.classifiers import repository
from reports.machine import machine
from rich.console import Console
from rich.table import Table
from rows.setting import CALLERS, Setting

_ROLES = {"small": "small", "resnet50_int8": "big"}
# Flags of floor/bare_server.py.
_BARE = {
    "echo plain": ("--echo",),
    "echo aio": ("--echo", "--front", "aio"),
    "echo core": ("--echo", "--front", "core"),
    "bare": (),
}
_RESONNX = ("aio", "core")
_UVLOOP = " uvloop"
_SERVERS = (*_BARE, *_RESONNX)
_ON_UVLOOP = ("echo aio", "echo core", *_RESONNX)
_WAYS = ("unary", "stream")
# Each way's first trial, and how many of the best are measured in every round: a short trial does not tell close ones
# apart, least of all on a machine that others share.
_FLOOR_TRIAL_S = 0.5
_FINALISTS = 3


class Comparison:
    """Measures one model.

    Args:
        setting: Has the model.
        role: Which it is there.
    """

    def __init__(self, setting: Setting, role: str) -> None:
        self._setting = setting
        self._name = setting.names[role]
        self._callers = CALLERS[role]
        self._servers = list(_SERVERS)
        if find_spec("uvloop"):
            self._servers += [f"{kind}{_UVLOOP}" for kind in _ON_UVLOOP]
        with setting.serving([self._name]) as server:
            self.session = setting.info(role, server.grpc).sessions[0]
        self._file = setting.models / self._name / "1" / self.session.file
        self._finalists: list[list[floor.Way]] = []
        self.usages: dict[tuple[str, str], list[Usage]] = defaultdict(list)
        self.floors: list[tuple[floor.Measured, floor.Measured]] = []

    def measure_round(self) -> None:
        """Measure everything once."""
        self.floors.append(self._measure_floors())
        seconds = self._setting.generator.seconds
        # To and fro, so that a machine that grows slower harms none of them more.
        for kind in self._servers if len(self.floors) % 2 else reversed(self._servers):
            with self._serving(kind) as server:
                for way in _WAYS:
                    load = self._setting.generator.loading(
                        server.grpc, self._name, self._callers, stream=way == "stream"
                    )
                    with load as client:
                        usage = watch(server, self._name, client, seconds)
                    self.usages[kind, way].append(usage)
                    print(f"{kind}, {way}: {usage}", file=sys.stderr, flush=True)

    def _serving(self, kind: str) -> AbstractContextManager[Serving]:
        here = Path(__file__).parent
        runner = [str(here / "load/on_uvloop.py")] if kind.endswith(_UVLOOP) else []
        kind = kind.removesuffix(_UVLOOP)
        if kind in _RESONNX:
            return self._setting.serving([self._name], "--grpc-front", kind, runner=runner)
        command = [sys.executable, *runner, str(here / "floor/bare_server.py"), str(self._file)]
        command += ["--provider", self.session.provider, "--precision", self.session.precision]
        return running([*command, *_BARE[kind]])

    def _measure_floors(self) -> tuple[floor.Measured, floor.Measured]:
        """Measure this round's best way of all, and the best of one row at a time."""

        def measure(ways: Sequence[floor.Way], seconds: float) -> list[floor.Measured]:
            found = floor.measure(self._file, self.session.provider, self.session.precision, ways, seconds)
            return sorted(found, key=lambda measured: measured.rate, reverse=True)

        if not self._finalists:
            tried = measure(floor.all_ways(self.session.provider, self._setting.cores), _FLOOR_TRIAL_S)
            single = [measured for measured in tried if measured.way.batch == 1]
            self._finalists = [[measured.way for measured in group[:_FINALISTS]] for group in (tried, single)]
        best, alone = (measure(ways, self._setting.generator.seconds / 2)[0] for ways in self._finalists)
        return best, alone


def show(comparison: Comparison) -> Table:
    """Lay out medians and, below each, the range over the rounds."""
    headers = ("server", "calls", "answers/s", "/ bare", "/ floor", "loop us", "others us", "client us", "together us")
    table = Table(*headers, "idle", "elsewhere", "batch")
    best = [best.rate for best, _ in comparison.floors]
    for (kind, way), usages in comparison.usages.items():
        rates = [usage.answers_per_s for usage in usages]
        bare = [usage.answers_per_s for usage in comparison.usages["bare", way]]
        batches = [usage.batch for usage in usages if usage.batch is not None]
        table.add_row(
            kind,
            way,
            _formatted(rates),
            _ratio(rates, bare) if kind.startswith(_RESONNX) else "",
            "" if kind.startswith("echo") else _ratio(rates, best),
            _formatted([usage.loop_us for usage in usages]),
            _formatted([usage.others_us for usage in usages]),
            _formatted([usage.client_us for usage in usages]),
            _formatted([usage.together_us for usage in usages]),
            _formatted([usage.idle for usage in usages], ".0%"),
            _formatted([usage.elsewhere for usage in usages], ".0%"),
            _formatted(batches, ".1f") if batches else "",
        )
    for i, name in enumerate(("floor", "floor, one row")):
        measured = [both[i] for both in comparison.floors]
        rates, row_us = [one.rate for one in measured], [one.row_us for one in measured]
        chosen = max(measured, key=lambda one: one.rate).way
        layout = f"{chosen.callers} x {chosen.threads}{' spinning' if chosen.spin else ''}"
        table.add_row(
            name,
            layout,
            _formatted(rates),
            "",
            _ratio(rates, best),
            "",
            _formatted(row_us),
            "",
            _formatted(row_us),
            "",
            "",
            str(chosen.batch),
        )
    return table


def _ratio(rates: Sequence[float], others: Sequence[float]) -> str:
    return _formatted([rate / other for rate, other in zip(rates, others, strict=True)], ".2f")


def _formatted(values: Sequence[float], form: str = ".0f") -> str:
    return f"{median(values):{form}}\n{min(values):{form}}..{max(values):{form}}"


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small", choices=tuple(_ROLES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="for which each server is watched")
    parser.add_argument("--perf-analyzer", type=Path, help="Triton's load generator (the one on PATH, if there is one)")
    parser.add_argument("--json", type=Path, help="write every round's figures")
    given = parser.parse_args()
    models = repository((given.model,))
    generator = Generator(find_perf_analyzer(given.perf_analyzer), given.seconds)
    before = machine()
    with Setting(models, "resnet50_int8", generator) as setting:
        comparison = Comparison(setting, _ROLES[given.model])
        for _ in range(given.rounds):
            comparison.measure_round()
    Console(width=160).print(show(comparison))
    where = f"{comparison.session.provider}, {comparison.session.precision}"
    print(f"{given.model} on {where}; {CALLERS[_ROLES[given.model]]} callers, sent by {generator.name}")
    if given.json:
        rows = [
            {"server": kind, "calls": way, "rounds": [asdict(usage) for usage in usages]}
            for (kind, way), usages in comparison.usages.items()
        ]
        floors = [{"best": asdict(best), "one_row": asdict(alone)} for best, alone in comparison.floors]
        content = {"machine": before, "generator": generator.name, "seconds": given.seconds, "model": given.model}
        given.json.write_text(json.dumps({**content, "rows": rows, "floors": floors}, indent=1) + "\n")


if __name__ == "__main__":
    main()
