"""Our client against tritonclient, in front of the same resonnx-server, and streams over few channels.

    PYTHONPATH=benchmarks python -m peers.clients [--rounds 5] [--calls 600] [--seconds 2] [--json FILE.json]

Both clients classify the same 32x32 pixels with the small model, in turns, each in a process of its own: one caller
after the other (blocking), and 16 callers of asyncio over one channel. Shown are the client's processor time for a call
and the median latency. tritonclient (a test dependency) returns all probabilities, ours the best class; both are asked
for nothing else. `resonnx bench` then sends 64 callers as streams over 1, 2, 4 and 16 channels.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from load.generator import Generator
from load.server_process import serving
from reports.rounds import Rounds
from resonnx import AsyncClient, Client

_MODEL: Final = "small"
_SIDE: Final = 32
_CALLERS: Final = 16
_STREAM_CALLERS: Final = 64
_CHANNELS: Final = (1, 2, 4, 16)
_WARM_UP: Final = 50
_OURS, _THEIRS = "resonnx", "tritonclient"


def _pixels() -> Any:
    return np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)


def _asked(triton: Any) -> tuple[list[Any], list[Any]]:
    """Return inputs and outputs of one call, as tritonclient's examples make them."""
    given = triton.InferInput("image", [1, _SIDE, _SIDE, 3], "UINT8")
    given.set_data_from_numpy(_pixels()[None])
    return [given], [triton.InferRequestedOutput("probabilities")]


def _blocking(name: str, server: str, calls: int) -> list[float]:
    """Return the seconds of each call of one caller."""
    pixels = _pixels()
    if name == _OURS:
        with Client(server) as client:
            return _timed(lambda: client.classify(pixels, _MODEL, top_k=1).predictions[0].score, calls)
    import tritonclient.grpc as triton

    with triton.InferenceServerClient(server) as client:

        def call() -> float:
            inputs, outputs = _asked(triton)
            return float(client.infer(_MODEL, inputs, outputs=outputs).as_numpy("probabilities").max())

        return _timed(call, calls)


async def _concurrent(name: str, server: str, calls: int) -> list[float]:
    """Return the seconds of each call of 16 callers."""
    pixels = _pixels()
    if name == _OURS:
        async with AsyncClient(server) as client:

            async def ours() -> float:
                return (await client.classify(pixels, _MODEL, top_k=1)).predictions[0].score

            return await _gathered(ours, calls)
    import tritonclient.grpc.aio as triton

    async with triton.InferenceServerClient(server) as client:

        async def theirs() -> float:
            inputs, outputs = _asked(triton)
            return float((await client.infer(_MODEL, inputs, outputs=outputs)).as_numpy("probabilities").max())

        return await _gathered(theirs, calls)


def _timed(call: Callable[[], float], calls: int) -> list[float]:
    taken = []
    for _ in range(calls):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return taken


async def _gathered(call: Callable[[], Awaitable[float]], calls: int) -> list[float]:
    taken = []

    async def caller() -> None:
        for _ in range(calls // _CALLERS):
            started = time.perf_counter()
            await call()
            taken.append(time.perf_counter() - started)

    await asyncio.gather(*(caller() for _ in range(_CALLERS)))
    return taken


def _send(name: str, way: str, server: str, calls: int) -> None:
    """Send calls from this process and print its processor time for one and their median latency."""

    def run(count: int) -> list[float]:
        return asyncio.run(_concurrent(name, server, count)) if way == "async" else _blocking(name, server, count)

    run(_WARM_UP)
    before = time.process_time()
    taken = run(calls)
    spent = time.process_time() - before
    print(json.dumps({"processor_us": 1e6 * spent / len(taken), "p50_ms": 1e3 * median(taken)}))


def _told(channels: int) -> str:
    return "1 channel" if channels == 1 else f"{channels} channels"


def main() -> None:
    """Measure and print; the file is written after each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a load of streams")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--send", nargs=3, metavar=("CLIENT", "WAY", "SERVER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.send:
        client, way, address = given.send
        _send(client, way, address, given.calls)
        return
    # Here, as it imports PyTorch, which a process that only sends does without.
    from random_models.classifiers import repository

    found = Rounds("what", "figure", "way")
    flags = ("--control-mode", "explicit", "--load-models", _MODEL)
    with serving(repository((_MODEL,)), *flags) as server:
        for turn in range(given.rounds):
            names = (_OURS, _THEIRS) if turn % 2 else (_THEIRS, _OURS)
            for way in ("blocking", "async"):
                for name in names:
                    command = [sys.executable, "-m", "peers.clients", "--send", name, way, server.grpc]
                    done = subprocess.run([*command, "--calls", str(given.calls)], capture_output=True, check=True)
                    for figure, value in json.loads(done.stdout).items():
                        found.add(way, figure, name, value=value)
            first = turn % len(_CHANNELS)
            for channels in _CHANNELS[first:] + _CHANNELS[:first]:
                few = ("--stream", "--concurrency", str(_STREAM_CALLERS), "--connections", str(channels))
                run = Generator(None, given.seconds).bench(server.grpc, _MODEL, *few)["runs"][0]
                for figure, key in (("answers/s", "per_s"), ("p99 ms", "p99_all_ms")):
                    found.add("streams", figure, _told(channels), value=run[key])
            print(f"round {turn + 1} of {given.rounds}", file=sys.stderr, flush=True)
            if given.json:
                found.write(given.json)
    ways = [(row["what"], row["figure"], row["way"]) for row in found.rows]
    bases = {_OURS: _THEIRS, **{_told(channels): _told(1) for channels in _CHANNELS[1:]}}
    found.show({(what, figure, way): (what, figure, bases[way]) for what, figure, way in ways if way in bases})


if __name__ == "__main__":
    main()
