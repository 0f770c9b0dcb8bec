"""One server process against one for each core, on the same cores.

    PYTHONPATH=benchmarks python benchmarks/load/processes.py [--rounds 3] [--seconds 6] [--json FILE]

Each round sends closed loops of tensors to both in turn, and counts the servers' processor time for each answer and
their memory. With one process a core, each is bound to its core; callers' connections are spread over them by the
client or, where nginx is installed, by nginx on the same cores, whose processor time counts as well. The load generator
runs on the same cores, so throughputs say less than processor time does. Servers that are not asked are stopped
meanwhile. A first run measures how the models run on one and on all cores, and keeps that: beside other work it takes
minutes. docs/scale.md draws conclusions.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from load.generator import Generator
from load.server_process import Serving, processor_s, serving
from peers.process import children, free_port, pause, resume
from random_models.classifiers import repository
from reports.rounds import Rounds

# Callers of all processes together.
_CALLERS: Final = {"small": 32, "resnet50_int8": 16}
_ONE: Final = "one process"
_EACH: Final = "one a core"
_NGINX: Final = "one a core, nginx"
# As docs/operations.md advises, without what only matters when a server is lost.
_CONFIGURATION: Final = """
daemon off; pid {folder}/pid; error_log stderr error; worker_processes auto;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    upstream servers {{ {servers} keepalive 64; }}
    server {{
        listen 127.0.0.1:{port} http2; http2_max_concurrent_streams 1024; client_max_body_size 64m;
        keepalive_requests 1000000000;
        location / {{ grpc_pass grpc://servers; }}
    }}
}}
"""


@contextmanager
def _processes(models: Path, ways: list[set[int]]) -> Iterator[list[Serving]]:
    """Run a server on each set of cores until the block ends."""
    own = os.sched_getaffinity(0)
    # By number of cores: those that are alike serve alike, and a later run starts at once.
    cached = ("--cache-dir", str(models / ".cache/processes"))
    with ExitStack() as stack:
        found = []
        for cores in ways:
            # Inherited: a server counts its cores at its start.
            os.sched_setaffinity(0, cores)
            print(f"starting a server on {len(cores)} of {len(own)} cores", file=sys.stderr, flush=True)
            try:
                found.append(
                    stack.enter_context(
                        serving(models, "--control-mode", "explicit", "--load-models", ",".join(_CALLERS), *cached)
                    )
                )
            finally:
                os.sched_setaffinity(0, own)
        yield found


@contextmanager
def _balancer(servers: list[Serving]) -> Iterator[tuple[str, int]]:
    """Run nginx in front of servers until the block ends; returns its HOST:PORT and its process."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        upstream = " ".join(f"server {server.grpc};" for server in servers)
        file = Path(folder) / "nginx.conf"
        file.write_text(_CONFIGURATION.format(folder=folder, servers=upstream, port=port))
        with subprocess.Popen(["nginx", "-p", folder, "-c", str(file)], stderr=subprocess.DEVNULL) as process:
            try:
                yield f"127.0.0.1:{port}", process.pid
            finally:
                process.terminate()


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) / 1024


def main() -> None:
    """Measure and print; the file is written after each round."""
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
        addresses = {way: ",".join(server.grpc for server in servers) for way, servers in running.items()}
        processes = {way: [server.pid for server in servers] for way, servers in running.items()}
        if shutil.which("nginx"):
            address, balancer = stack.enter_context(_balancer(running[_EACH]))
            addresses[_NGINX] = address
            processes[_NGINX] = [*processes[_EACH], balancer]
        for first in {pid for pids in processes.values() for pid in pids}:
            pause(first)
            # A stopped process does not end either.
            stack.callback(resume, first)
        names = list(addresses)
        for turn in range(given.rounds):
            first_way = turn % len(names)
            for model, callers in _CALLERS.items():
                for way in names[first_way:] + names[:first_way]:
                    for first in processes[way]:
                        resume(first)
                    servers = running[_ONE if way == _ONE else _EACH]
                    pids = [pid for first in processes[way] for pid in children(first)]
                    before, answers = sum(map(processor_s, pids)), sum(server.answers for server in servers)
                    flags = ("--concurrency", str(callers), *connections)
                    run = generator.bench(addresses[way], model, *flags)["runs"][0]
                    spent_s = sum(map(processor_s, pids)) - before
                    # Also those of the warm-up.
                    answers = sum(server.answers for server in servers) - answers
                    rounds.add(model, "answers/s", way, value=run["per_s"])
                    rounds.add(model, "processor us an answer", way, value=1e6 * spent_s / answers)
                    rounds.add(model, "p99 ms", way, value=run["p99_all_ms"])
                    rounds.add(model, "memory MB", way, value=sum(map(_resident_mb, pids)))
                    for first in processes[way]:
                        pause(first)
            print(f"round {turn + 1} of {given.rounds}", file=sys.stderr, flush=True)
            if given.json:
                rounds.write(given.json)
    rounds.show({(model, figure, way): (model, figure, _ONE) for model, figure, way in _rows(rounds) if way != _ONE})


def _rows(rounds: Rounds) -> list[tuple[str, str, str]]:
    return [(row["model"], row["figure"], row["way"]) for row in rounds.rows]


if __name__ == "__main__":
    main()
