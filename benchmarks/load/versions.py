"""This version against another one of this project, in turns: callers of the small model, and one of ResNet-50 int8.

    git worktree add ../before main~20
    PYTHONPATH=benchmarks python benchmarks/load/versions.py --before ../before [--rounds 5] [--rows lone,4,16]

    lone         one caller of the small model (ResNet-18 at 32x32), unary: p50 and p99, ms
    lone-stream  the same on a stream
    lone-big     one caller of ResNet-50 int8, unary
    4, 16, ...   so many callers of the small model, unary: answers a second, and p99
    floor        ONNX Runtime alone, one row in the fastest way: median, ms

Per round each version starts a server, in alternating order; both have the same latency tables, so that they choose the
same sessions. Without --before only this version is measured. With --starts each start measures anew.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from floor.ways import measure as measure_ways
from floor.ways import single_ways
from load.generator import Generator, find_perf_analyzer
from load.server_process import Serving, serving
from random_models.classifiers import repository
from reports.rounds import Rounds
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.session import CPU

_SMALL: Final = "small"
_BIG: Final = "resnet50_int8"
_LONE: Final = {"lone": (_SMALL, False), "lone-stream": (_SMALL, True), "lone-big": (_BIG, False)}
_PRECISIONS: Final = {_SMALL: "fp32", _BIG: "int8"}


def _measure(server: Serving, generator: Generator, row: str) -> dict[str, float]:
    """Return the figures of a row by name."""
    model, stream = _LONE.get(row, (_SMALL, False))
    callers = 1 if row in _LONE else int(row)
    found = generator.closed(server.grpc, model, callers, stream=stream)
    assert found.p50_ms is not None
    assert found.p99_ms is not None
    figures = {"p50 ms": found.p50_ms} if row in _LONE else {"answers/s": found.rate}
    return {**figures, "p99 ms": found.p99_ms}


def _floor_ms(models: Path, name: str, seconds: float) -> float:
    ways = single_ways(CPU, usable_cores())
    found = measure_ways(models / name / "1/model.onnx", CPU, _PRECISIONS[name], ways, seconds)
    return min(each.run_ms for each in found)


def _rounds(given: argparse.Namespace, rows: Sequence[str], generator: Generator, folder: Path) -> Rounds:
    names = sorted({_LONE.get(row, (_SMALL, False))[0] for row in rows})
    models = repository((_SMALL, _BIG) if _BIG in names else (_SMALL,)).resolve()
    (folder / "models").mkdir()
    for name in names:
        (folder / "models" / name).symlink_to(models / name)
    rounds = Rounds("row", "figure", "version")
    against: dict[tuple[str, ...], tuple[str, ...]] = {}
    versions: dict[str, Path | None] = {"this": None}
    if given.before is not None:
        versions["before"] = given.before.resolve()
    for number in range(given.rounds):
        for name in names:
            rounds.add("floor", f"{name} ms", "-", value=_floor_ms(models, name, given.seconds / 6))
        for version in [*versions][:: -1 if number % 2 else 1]:
            cache = folder / (f"cache-{version}-{number}" if given.starts else "cache")
            flags = ("--cache-dir", str(cache), *given.flags.split())
            with serving(folder / "models", *flags, checkout=versions[version]) as server:
                for row in rows:
                    for figure, value in _measure(server, generator, row).items():
                        rounds.add(row, figure, version, value=value)
                        print(f"round {number + 1}: {version} {row} {figure}: {value:.3f}", file=sys.stderr, flush=True)
                        if version == "before":
                            against[row, figure, "this"] = row, figure, "before"
    rounds.show(against)
    return rounds


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of the other version")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", default="lone,lone-stream,4,16,32")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time of a load")
    parser.add_argument("--starts", action="store_true", help="no latency tables of the start before")
    parser.add_argument("--flags", default="", help="further flags of resonnx-server, in one string")
    parser.add_argument("--perf-analyzer", type=Path, help="Triton's load generator (the one on PATH, if there is one)")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    generator = Generator(find_perf_analyzer(given.perf_analyzer), given.seconds)
    with tempfile.TemporaryDirectory() as folder:
        rounds = _rounds(given, given.rows.split(","), generator, Path(folder))
    if given.json:
        rounds.write(given.json, generator=generator.name)


if __name__ == "__main__":
    main()
