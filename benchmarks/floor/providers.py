"""Providers of ONNX Runtime and other runtimes from PyPI against ONNX Runtime's CPU provider, graph by graph, in turns.

    PYTHONPATH=benchmarks python -m floor.providers [--rounds 5] [--threads 1] [--only cpu,built-in] [--json FILE]

    cpu          the CPU provider of ONNX Runtime here: what ratios are taken to
    cpu-1.24     the same of onnxruntime-openvino, whose ONNX Runtime is older
    built-in     OpenVINO of onnxruntime-openvino, for Intel and AMD
    plugin       OpenVINO of onnxruntime-ep-openvino, for Intel
    openvino     OpenVINO's own runtime, without ONNX Runtime

Each has an environment of its own in .make/peers and a process that opens one graph after the other: classifiers of
`random_models/classifiers.py`, and a word's step of the captioner `lstm`. Ratios are of times: below 1
is faster than `cpu`. Memory is what graph and runs of 1 and 8 rows add, in a process for each graph. With
--servers, also the start of a server with ResNet-50 in int8 and the small model: ready with an empty cache and with a
filled one, and resident memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from load.server_process import HUGE_PAGES, running
from peers.environments import environment
from random_models.captioners import captioners
from random_models.classifiers import repository
from reports.rounds import Rounds
from resonnx_server.runtime.machine.host import usable_cores

_ROOT: Final = Path(__file__).resolve().parents[2]
_CPU, _OPENVINO = "CPUExecutionProvider", "OpenVINOExecutionProvider"
_REFERENCE: Final = "cpu"
_BATCHES: Final = (1, 8)
_CLASSIFIERS: Final = {"small": "fp32", "small_int8": "int8", "resnet50": "fp32", "resnet50_int8": "int8"}
_SERVED: Final = ("small", "resnet50_int8")


@dataclass(frozen=True)
class Way:
    """A runtime: its environment in .make/peers, None for this one; the worker's kind; whether it computes in bf16."""

    environment: str | None
    kind: str
    has_bf16: bool = False

    @property
    def has_server(self) -> bool:
        """Whether resonnx-server runs in its environment."""
        return self.kind in (_CPU, _OPENVINO)


_WAYS: Final = {
    _REFERENCE: Way(None, _CPU),
    "cpu-1.24": Way("onnxruntime-openvino", _CPU),
    "built-in": Way("onnxruntime-openvino", _OPENVINO, has_bf16=True),
    "plugin": Way("onnxruntime-ep-openvino", _OPENVINO, has_bf16=True),
    "openvino": Way("openvino", "openvino", has_bf16=True),
}


@dataclass(frozen=True)
class Graph:
    """A graph's title, its file, and the precision that it is computed in."""

    title: str
    file: Path
    precision: str


class Worker:
    """The process of one way."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, **question: object) -> dict[str, Any]:
        """Return the answer to a question (provider_worker.py). Raises RuntimeError if the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the runtime ended its process")
        found: dict[str, Any] = json.loads(answer)
        return found


def _python(way: Way) -> str:
    return sys.executable if way.environment is None else str(environment(way.environment))


@contextmanager
def _worker(way: Way) -> Iterator[Worker]:
    program = str(_ROOT / "benchmarks/floor/provider_worker.py")
    path = os.pathsep.join(str(_ROOT / part) for part in ("proto", "server"))
    command, variables = [_python(way), program, way.kind], {**HUGE_PAGES, **os.environ, "PYTHONPATH": path}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=variables, **pipes) as process:
        try:
            yield Worker(process)
        finally:
            process.terminate()


def _graphs(classifiers: Path, captions: Path) -> Iterator[Graph]:
    for name, precision in _CLASSIFIERS.items():
        file = classifiers / name / "1/model.onnx"
        yield Graph(name, file, precision)
        if precision == "fp32":
            yield Graph(f"{name} in bf16", file, "bf16")
    yield Graph("lstm, a word", captions / "lstm/1/decoder.onnx", "fp32")


def _measure(graph: Graph, ways: Mapping[str, Way], given: argparse.Namespace, rounds: Rounds) -> None:
    """Measure a graph on all ways that open it."""
    with ExitStack() as closing:
        workers: dict[str, Worker] = {}
        for name, way in ways.items():
            precision = graph.precision
            if precision == "bf16" and not way.has_bf16:
                if name != _REFERENCE:
                    continue
                # The graph's own: what others save by bf16 is told against fp32.
                precision = "fp32"
            worker = closing.enter_context(_worker(way))
            before = worker.ask()["resident MB"]
            opened = worker.ask(open=str(graph.file.resolve()), precision=precision, threads=given.threads)
            tried = [opened] + [worker.ask(rows=rows, seconds=0) for rows in _BATCHES if "refused" not in opened]
            if refused := [answer["refused"] for answer in tried if "refused" in answer]:
                print(f"{graph.title}: {name} refused: {refused[0]}", file=sys.stderr, flush=True)
                continue
            rounds.add(graph.title, "-", "opened, ms", name, value=opened["open ms"])
            rounds.add(graph.title, "-", "memory, MB", name, value=worker.ask()["resident MB"] - before)
            workers[name] = worker
        for number in range(given.rounds):
            for rows in _BATCHES:
                for name in [*workers][:: -1 if number % 2 else 1]:
                    for figure, value in workers[name].ask(rows=rows, seconds=given.seconds).items():
                        rounds.add(graph.title, str(rows), figure, name, value=value)


def _servers(models: Path, ways: Mapping[str, Way], rounds: Rounds) -> None:
    """Start a server on each provider and on the choice among all, twice: with an empty cache and with a filled one."""
    wanted = {name: "openvino" if way.kind == _OPENVINO else "cpu" for name, way in ways.items() if way.has_server}
    starts = [*wanted.items(), *((name, "auto") for name, provider in wanted.items() if provider == "openvino")]
    for name, provider in starts:
        with tempfile.TemporaryDirectory() as folder:
            served = Path(folder, "models")
            served.mkdir()
            for model in _SERVED:
                (served / model).symlink_to((models / model).resolve())
            command = [_python(ways[name]), "-m", "resonnx_server", "--repository", str(served), "--port", "0"]
            command += ["--http-port", "0", "--provider", provider, "--cache-dir", str(Path(folder, "cache"))]
            path = os.pathsep.join(str(_ROOT / part) for part in ("proto", "server"))
            for cache in ("empty", "filled"):
                start = time.perf_counter()
                with running([*command, "--log-level", "error"], {"PYTHONPATH": path}) as server:
                    ready = time.perf_counter() - start
                    status = Path(f"/proc/{server.pid}/statm").read_text().split()
                    resident = int(status[1]) * os.sysconf("SC_PAGESIZE") / 1e6
                rounds.add("server", provider, f"ready with {cache} cache, s", name, value=ready)
                rounds.add("server", provider, f"resident with {cache} cache, MB", name, value=resident)
                print(f"{name} {provider}, {cache}: {ready:.1f} s, {resident:.0f} MB", file=sys.stderr, flush=True)


def _against(rounds: Rounds) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return for each row the CPU provider's."""
    rows = [tuple(str(row[key]) for key in ("graph", "rows", "figure", "way")) for row in rounds.rows]
    found = {row: (*row[:3], _REFERENCE) for row in rows if row[3] != _REFERENCE}
    return {row: other for row, other in found.items() if other in rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="for a batch size of a graph on one way")
    parser.add_argument("--threads", type=int, default=1, help=f"of a run; here at most {usable_cores()}")
    parser.add_argument("--only", help="names of ways, separated by commas; `cpu` is always among them")
    parser.add_argument("--graphs", default="", help="only graphs whose titles contain this")
    parser.add_argument("--servers", action="store_true", help="starts of servers instead of graphs")
    parser.add_argument("--models", type=Path, default=Path("benchmarks/.models"), help="exported classifiers")
    parser.add_argument("--captioners", type=Path, default=Path("benchmarks/.captioners"), help="exported captioners")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    chosen = given.only.split(",") if given.only else [*_WAYS]
    ways = {name: way for name, way in _WAYS.items() if name in {_REFERENCE, *chosen}}
    models = repository(tuple(_CLASSIFIERS), given.models)
    rounds = Rounds("graph", "rows", "figure", "way")
    if given.servers:
        for _ in range(given.rounds):
            _servers(models, ways, rounds)
    else:
        for graph in _graphs(models, captioners(("lstm",), given.captioners)):
            if given.graphs in graph.title:
                _measure(graph, ways, given, rounds)
    rounds.show(_against(rounds))
    if given.json:
        rounds.write(given.json, threads=given.threads)


if __name__ == "__main__":
    main()
