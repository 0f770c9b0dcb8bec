"""Processor time of a loaded server and of its load generator, as the kernel counts it."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
from load.server_process import Serving, processor_s
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

# After the first answer: connections, first batches, and what perf_analyzer does before it sends in earnest.
_SETTLE_S = 1.0
_FIRST_ANSWER_S = 30.0


@dataclass(frozen=True)
class Usage:
    """Processor time per request, in microseconds.

    Attributes:
        loop_us: Time of the server's main thread.
        others_us: Time of its other threads, including ended ones.
        client_us: Time of the load generator.
        idle: Share of the cores' time without work.
        elsewhere: Share used by other processes; a large one disturbs the figures.
        batch: Mean requests per batch; None without batches.
    """

    answers_per_s: float
    loop_us: float
    others_us: float
    client_us: float
    together_us: float
    idle: float
    elsewhere: float
    batch: float | None


@dataclass(frozen=True)
class _Clocks:
    """Counters of one moment; times in seconds."""

    now: float
    requests: int
    batches: int
    loop: float
    server: float
    client: float
    idle: float
    whole: float


def watch(server: Serving, model: str, client: int, seconds: float) -> Usage:
    """Watch a server under load.

    Args:
        server: The server.
        model: The name of its model.
        client: The process that sends the load.
        seconds: Measured time.
    """
    with grpc.insecure_channel(server.grpc) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def clocks() -> _Clocks:
            (counts,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name=model)).model_stats
            idle, whole = _machine_s()
            return _Clocks(
                time.perf_counter(),
                counts.inference_stats.success.count,
                counts.execution_count,
                processor_s(server.pid, server.pid),
                processor_s(server.pid),
                processor_s(client),
                idle,
                whole,
            )

        first, give_up = clocks().requests, time.monotonic() + _FIRST_ANSWER_S
        while clocks().requests == first:
            if time.monotonic() > give_up:
                raise RuntimeError(f"{model}: no answer within {_FIRST_ANSWER_S:g} s")
            time.sleep(0.1)
        time.sleep(_SETTLE_S)
        begin = clocks()
        time.sleep(seconds)
        return _usage(begin, clocks())


def _usage(begin: _Clocks, end: _Clocks) -> Usage:
    idle, whole = end.idle - begin.idle, end.whole - begin.whole
    requests, batches = end.requests - begin.requests, end.batches - begin.batches
    loop, server, client = end.loop - begin.loop, end.server - begin.server, end.client - begin.client
    return Usage(
        requests / (end.now - begin.now),
        loop * 1e6 / requests,
        (server - loop) * 1e6 / requests,
        client * 1e6 / requests,
        (server + client) * 1e6 / requests,
        idle / whole,
        1 - (idle + server + client) / whole,
        requests / batches if batches else None,
    )


def _machine_s() -> tuple[float, float]:
    """Return idle time and all time of all cores."""
    # user, nice, system, idle, waiting for disks, interrupts (2), stolen by other machines; guests are within user.
    times = [
        int(word) / os.sysconf("SC_CLK_TCK") for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    ]
    return times[3] + times[4], sum(times)
