"""Throughput and latency of the server relative to ONNX Runtime alone: `make bench`.

    python benchmarks/overhead.py [--rounds 5] [--rows small-unary,jpeg] [--json FILE] [--plot FILE.png]

Floors, servers and rivals take turns in every round, so that a change of the machine's speed affects all of them. Shown
are each row's median and spread over the rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from load.generator import Generator, find_perf_analyzer
from random_models.classifiers import repository
from reports import chart
from reports.machine import machine
from rich.console import Console
from rich.table import Table
from rows import access, footprint, tails, throughput
from rows.setting import Setting


@dataclass(frozen=True)
class Row:
    """A figure with a target.

    Attributes:
        must: The target: a lower bound if `at_least`, else an upper bound.
        aim: A stricter target, or None.
        every: Whether each round must meet the target, not only the median.
    """

    name: str
    what: str
    measure: Callable[[Setting], float]
    must: float
    aim: float | None
    at_least: bool = True
    every: bool = False

    def figure(self, values: list[float]) -> float:
        """Return the figure that is compared with the bound."""
        if self.every:
            return min(values) if self.at_least else max(values)
        return statistics.median(values)

    def keeps(self, values: list[float], bound: float) -> bool:
        """Return whether the values meet a bound."""
        return self.figure(values) >= bound if self.at_least else self.figure(values) <= bound

    def met(self, values: list[float]) -> str:
        """Return the target that the values meet: "aim", "must", or "NO" for none."""
        if self.aim is not None and self.keeps(values, self.aim):
            return "aim"
        return "must" if self.keeps(values, self.must) else "NO"


ROWS = (
    Row("big-unary", "ResNet-50, uint8 pixels, 16 callers: share of the floor", throughput.big_unary, 0.78, 0.88),
    Row("big-stream", "same on streams", throughput.big_stream, 0.80, 0.90),
    Row("big-float", "ResNet-50, fp32 tensors of 602 kB: share of the floor", throughput.big_float, 0.72, 0.80),
    Row("small-unary", "ResNet-18 at 32x32, unary, 32 callers: share of the floor", throughput.small_unary, 0.60, 0.70),
    Row("small-stream", "same on streams", throughput.small_stream, 0.62, 0.80),
    Row("small-added-ms", "added latency of one caller, small model, ms", throughput.small_added_ms, 0.7, 0.35, False),
    Row("jpeg", "JPEG 640x480, ResNet-50: share of 1 / (1/floor + decoding/cores)", throughput.jpeg, 0.80, 0.90),
    Row("poisson", "highest Poisson rate with p99 <= 6 x one picture's time: share of peak", tails.poisson, 0.65, 0.80),
    Row("overload-3x", "offered 3x, JPEG, fp32 on the CPU: goodput, share of oracle", tails.overload_3x, 0.95, 1.0),
    Row("overload-10x", "offered 10x: goodput, share of oracle", tails.overload_10x, 0.95, 1.0),
    Row("refusal-ms", "refusals in those runs: p99, ms", tails.refusal_ms, 50, 10, False),
    Row("overload-pixels", "offered 3x, pixels, ResNet-50: goodput, share of peak", tails.overload_pixels, 0.60, 0.75),
    Row("access", "keys and mutual TLS, ResNet-18, 32 callers: share without", access.keys_and_tls, 0.92, 0.95),
    Row("thousand", "1,000 clients, small model: share of peak", throughput.thousand_clients, 0.90, 0.98),
    Row("two-models", "two models at 35 % each: both objectives met at p99", tails.two_models, 1, None, every=True),
    Row("ready-s", "start to ready, ResNet-50, cached table, s", footprint.start_to_ready_s, 3.0, 1.5, False),
    Row("memory-mb", "resident memory, one ResNet-50, 16 callers, MB", footprint.memory_mb, 600, 400, False),
)  # fmt: skip


def measure(setting: Setting, rows: list[Row], rounds: int) -> dict[str, list[float]]:
    """Measure every row once a round. A row that fails is reported and left out of that round."""
    values: dict[str, list[float]] = {row.name: [] for row in rows}
    for number in range(rounds):
        setting.begin_round()
        for row in rows:
            try:
                values[row.name].append(row.measure(setting))
            except (RuntimeError, AssertionError, subprocess.CalledProcessError) as error:
                print(f"round {number + 1}: {row.name}: failed: {error}", file=sys.stderr)
            else:
                print(f"round {number + 1}: {row.name}: {values[row.name][-1]:.3f}", file=sys.stderr, flush=True)
    return values


def show(rows: list[Row], values: dict[str, list[float]]) -> Table:
    """Return a table of the results and their targets."""
    table = Table("row", "what", "must", "aim", "median", "min .. max", "met")
    for row in rows:
        sign, found = (">=" if row.at_least else "<="), values[row.name]
        bounds = [f"{sign} {row.must:g}", "" if row.aim is None else f"{row.aim:g}"]
        if not found:
            table.add_row(row.name, row.what, *bounds, "-", "-", "not measured")
            continue
        spread = f"{min(found):.3g} .. {max(found):.3g}"
        table.add_row(row.name, row.what, *bounds, f"{statistics.median(found):.3g}", spread, row.met(found))
    return table


def plot(file: Path, values: dict[str, list[float]]) -> None:
    """Draw every measured row as a ratio to its bound, by which rows of different units share an axis."""
    lines = []
    for row in ROWS:
        if not (found := values.get(row.name)):
            continue
        sign, aim = (">=" if row.at_least else "<="), "" if row.aim is None else f", aim {row.aim:g}"
        lines.append(
            chart.Line(
                row.name,
                row.what,
                [value / row.must for value in found],
                f"{statistics.median(found):.3g} (must {sign} {row.must:g}{aim})",
                must=1,
                aim=row.aim and row.aim / row.must,
                at_least=row.at_least,
                met=row.met(found),
            )
        )
    chart.draw_lines(file, "median and range of the rounds, as a ratio to what must be kept", lines)


def main() -> int:
    """Measure and return the exit status: 1 if something promised is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", help=f"of {', '.join(row.name for row in ROWS)} (all)")
    parser.add_argument("--seconds", type=float, default=6.0, help="measured time of a load")
    parser.add_argument("--perf-analyzer", type=Path, help="Triton's load generator (the one on PATH, if there is one)")
    parser.add_argument("--json", type=Path, help="write every round's figures")
    parser.add_argument("--plot", type=chart.png, metavar="FILE.png", help="draw each row's ratio to its bound")
    given = parser.parse_args()
    wanted = given.rows.split(",") if given.rows else [row.name for row in ROWS]
    if unknown := sorted(set(wanted) - {row.name for row in ROWS}):
        parser.error(f"no row is called {unknown[0]!r}")
    rows = [row for row in ROWS if row.name in wanted]
    generator = Generator(find_perf_analyzer(given.perf_analyzer), given.seconds)
    big = "resnet50_int8"
    try:
        models = repository((big, f"{big}_float", "resnet50", "small"))
    except subprocess.CalledProcessError:
        print("the exporter does not quantise this model: ResNet-50 is measured in float32", file=sys.stderr)
        big = "resnet50"
        models = repository((big, f"{big}_float", "small"))
    before = machine()
    with Setting(models, big, generator) as setting:
        values = measure(setting, rows, given.rounds)
        ways = {role: [asdict(way) for way in ways] for role, ways in setting.ways.items()}
        candidates = {role: asdict(setting.info(role).sessions[0]) for role in ways}
    Console(width=160).print(show(rows, values))
    print(f"tensors sent by {generator.name}; ResNet-50 is {big}; best ways of ONNX Runtime alone: {ways}")
    if given.json:
        content = {"machine": before, "generator": generator.name, "seconds": given.seconds, "big": big, "ways": ways}
        content |= {"candidates": candidates, "rows": values}
        given.json.write_text(json.dumps(content, indent=1) + "\n")
    if given.plot:
        plot(given.plot, values)
    return 0 if all(values[row.name] and row.keeps(values[row.name], row.must) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
