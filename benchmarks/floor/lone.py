"""What a lone caller waits for: gRPC alone on each front, and this server, in turns.

    PYTHONPATH=benchmarks python benchmarks/floor/lone.py [--model small] [--rounds 5] [--callers 1] [--rows LIST]

    echo plain      grpc.aio's server with the same messages, and no model (floor/bare_server.py)
    echo aio, core  the same on each of our fronts: the least that Python's gRPC costs here
    aio, core       this server on each front
    before          this server at --before CHECKOUT, on the front that it chooses
    ROW uvloop      the same on uvloop's event loop, where that is installed
    ROW NAME=VALUE  the same with a variable of the environment, such as GRPC_EXPERIMENTS=-event_engine_listener
    place lane      a server without checks on the front core, that runs requests on a thread of their own
    place loop, place queue
                    the same on the event loop, on the thread of gRPC's queue (floor/places.py): no hand-overs
    floor           ONNX Runtime alone, one row in the fastest way, again and again
    floor rested    the same, a millisecond after the run before

Shown are p50 and p99 in ms, and for each request the server's processor time in microseconds and how often its threads
fell asleep, or were put off their processor. Servers have the same latency tables, so that they choose the same
sessions.
"""

import argparse
import re
import sys
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
from floor.ways import measure as measure_ways
from floor.ways import single_ways
from load.generator import Generator, find_perf_analyzer
from load.server_process import Serving, running, serving
from random_models.classifiers import repository
from reports.rounds import Rounds
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.session import CPU

_BENCHMARKS = Path(__file__).parents[1]
_PRECISIONS = {"small": "fp32", "resnet50_int8": "int8"}
_FRONTS = ("aio", "core")
# Programs of floor/, with the flag that their rows' second word is for.
_BARE = {"echo": ("bare_server.py", "--echo", "--front"), "place": ("places.py", "--place")}
_REST_MS = 1.0
_ROWS = "echo plain,echo aio,echo core,aio,core"
_SWITCHES = re.compile(r"ctxt_switches:\s+(\d+)")


def _spent(pid: int) -> tuple[int, int, int]:
    """Return the nanoseconds of processor time of a process's threads, and how often they slept and were put off."""
    ns = slept = put_off = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        ns += int((task / "schedstat").read_text().split()[0])
        voluntary, forced = map(int, _SWITCHES.findall((task / "status").read_text()))
        slept, put_off = slept + voluntary, put_off + forced
    return ns, slept, put_off


def _requests(server: Serving, model: str) -> int:
    with grpc.insecure_channel(server.grpc) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        (counts,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name=model)).model_stats
    return int(counts.inference_stats.success.count)


def _serving(row: str, models: Path, model: str, cache: Path, before: Path | None) -> AbstractContextManager[Serving]:
    """Start the server of a row."""
    words = row.split()
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    runner = [str(_BENCHMARKS / "load/on_uvloop.py")] if "uvloop" in words else []
    if words[0] in _BARE:
        program, *chosen = _BARE[words[0]]
        file = str(models / model / "1/model.onnx")
        command = [sys.executable, *runner, str(_BENCHMARKS / "floor" / program), file]
        return running([*command, "--precision", _PRECISIONS[model], *chosen, words[1]], variables)
    flags = ["--cache-dir", str(cache), *(["--grpc-front", words[0]] if words[0] in _FRONTS else [])]
    checkout = before if words[0] == "before" else None
    return serving(models, *flags, runner=runner, checkout=checkout, more=variables)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small", choices=tuple(_PRECISIONS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callers", type=int, default=1)
    parser.add_argument("--rows", default=_ROWS)
    parser.add_argument("--before", type=Path, help="checkout of another version of this project")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time of a load")
    parser.add_argument("--perf-analyzer", type=Path, help="Triton's load generator (the one on PATH, if there is one)")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    generator = Generator(find_perf_analyzer(given.perf_analyzer), given.seconds)
    models, rows, rounds = repository((given.model,)).resolve(), given.rows.split(","), Rounds("row", "figure")
    ways = single_ways(CPU, usable_cores())
    with tempfile.TemporaryDirectory() as folder:
        (only := Path(folder) / "models").mkdir()
        (only / given.model).symlink_to(models / given.model)
        for number in range(given.rounds):
            file = only / given.model / "1/model.onnx"
            for floor, pause_ms in (("floor", 0.0), ("floor rested", _REST_MS)):
                found = measure_ways(file, CPU, _PRECISIONS[given.model], ways, given.seconds / 6, pause_ms)
                rounds.add(floor, "p50 ms", value=min(each.run_ms for each in found))
            for row in rows[:: -1 if number % 2 else 1]:
                with _serving(row, only, given.model, Path(folder) / "cache", given.before) as server:
                    before, begun = _spent(server.pid), _requests(server, given.model)
                    outcome = generator.closed(server.grpc, given.model, given.callers)
                    after, ended = _spent(server.pid), _requests(server, given.model)
                assert outcome.p50_ms is not None
                assert outcome.p99_ms is not None
                us, slept, put_off = ((b - a) / (ended - begun) for a, b in zip(before, after, strict=True))
                figures = {"p50 ms": outcome.p50_ms, "p99 ms": outcome.p99_ms, "processor us": us / 1e3}
                for figure, value in {**figures, "sleeps": slept, "put off": put_off}.items():
                    rounds.add(row, figure, value=value)
                print(f"round {number + 1}: {row}: {figures}", file=sys.stderr, flush=True)
    rounds.show({})
    if given.json:
        rounds.write(given.json, generator=generator.name, model=given.model, callers=given.callers)


if __name__ == "__main__":
    main()
