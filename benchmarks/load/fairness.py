"""What a flood of one caller leaves to another: ratios of a caller beside it and the same caller alone, in turns.

    PYTHONPATH=benchmarks python benchmarks/load/fairness.py [--rounds 3] [--seconds 4] [--flood 200]
        [--rows small,jpeg,captions,broken,streams]

One server with the small classifier and a captioner. The flood comes from 127.0.0.2, the other caller from 127.0.0.1.
The flood's client is a process on the server's machine, whose processor time is no sharing of the server's. "solo" is
therefore the other caller in the same round beside a process that spends as much processor time as the flood's client
did, and does nothing with it; "idle" is the caller on a machine without either. Exit status 1 if a bound is missed.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from statistics import median, quantiles
from typing import Final

import grpc
import numpy as np
from load.burning import burning
from load.server_process import Serving, processor_s, serving
from pictures.photographs import picture
from random_models.captioners import captioners
from random_models.classifiers import repository
from resonnx_proto.v1 import vision_pb2 as pb
from resonnx_proto.v1 import vision_pb2_grpc
from rich.console import Console
from rich.table import Table

_CAPTIONER: Final = "lstm_int8"
_ROWS: Final = ("small", "jpeg", "captions", "broken", "streams")
_STREAMS: Final = 4
# Least share of its solo goodput that a caller with 16 requests in flight keeps.
_KEEPS: Final = 0.40
# Answers of the first moments are not counted.
_WARM_UP_S: Final = 1.0
# Longest wait for a flood's first calls.
_SETTLES_S: Final = 8.0
_REFUSED: Final = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT})


def _requests(row: str, folder: Path) -> tuple[str, pb.ClassifyRequest | pb.CaptionRequest]:
    """Return the method and the request of a row's calls."""
    if row == "captions":
        raw = pb.Image.Raw(rgb=np.random.default_rng(0).bytes(3 * 224 * 224), width=224, height=224)
        return "Caption", pb.CaptionRequest(model=_CAPTIONER, image=pb.Image(raw=raw))
    if row in ("small", "streams"):
        raw = pb.Image.Raw(rgb=bytes(3 * 32 * 32), width=32, height=32)
        return "Classify", pb.ClassifyRequest(model="small", image=pb.Image(raw=raw))
    content = (folder / "large.jpg").read_bytes()
    if row == "broken":
        # The header and two thirds of the picture: it is decoded until it ends.
        content = content[: len(content) * 2 // 3]
    return "Classify", pb.ClassifyRequest(model="small", image=pb.Image(encoded=content))


async def _send(address: str, row: str, in_flight: int, seconds: float, folder: Path) -> list[float]:
    """Keep calls of a row in flight; return the ms of each answer of the measured time."""
    method, request = _requests(row, folder)
    took: list[float] = []
    begin = time.perf_counter() + _WARM_UP_S
    end = begin + seconds

    def answered(start: float) -> None:
        # By their end: calls may take longer than a short measurement.
        if begin <= (now := time.perf_counter()) <= end:
            took.append((now - start) * 1e3)

    async def unary(stub: vision_pb2_grpc.VisionStub) -> None:
        call = getattr(stub, method)
        while (start := time.perf_counter()) < end:
            try:
                await call(request)
                answered(start)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _REFUSED:
                    raise
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    await asyncio.sleep(0.02)

    async def stream(stub: vision_pb2_grpc.VisionStub, at_once: int) -> None:
        starts: asyncio.Queue[float] = asyncio.Queue()
        room = asyncio.Semaphore(at_once)

        async def requests() -> AsyncIterator[pb.ClassifyRequest | pb.CaptionRequest]:
            while time.perf_counter() < end:
                await room.acquire()
                starts.put_nowait(time.perf_counter())
                yield request

        async for _ in stub.ClassifyStream(requests()):
            answered(starts.get_nowait())
            room.release()

    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(address, options) as channel:
        stub = vision_pb2_grpc.VisionStub(channel)
        if row == "streams":
            count = min(_STREAMS, in_flight)
            await asyncio.gather(*(stream(stub, in_flight // count) for _ in range(count)))
        else:
            await asyncio.gather(*(unary(stub) for _ in range(in_flight)))
    return took


@asynccontextmanager
async def _relay(source: str, target: str) -> AsyncIterator[str]:
    """Relay connections to `target`, which sees them come from the address `source`."""
    host, _, port = target.rpartition(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 18):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(host, int(port), local_addr=(source, 0))
        await asyncio.gather(pump(reader, ours), pump(theirs, writer), return_exceptions=True)

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def _flood(address: str, row: str, in_flight: int, folder: Path) -> None:
    async with _relay("127.0.0.2", address) as relay:
        print("flooding", flush=True)
        await _send(relay, row, in_flight, 3600, folder)


@contextmanager
def _flooding(address: str, row: str, in_flight: int, folder: Path) -> Iterator[int]:
    """Flood the server from a process of its own, whose id it gives, until the block ends."""
    command = [sys.executable, __file__, "--flooding", address, row, str(in_flight), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError(f"the flood of {row} ended")
            yield process.pid
        finally:
            process.kill()
    # Its last requests end.
    time.sleep(1)


def _p99(took: list[float]) -> float:
    return quantiles(took, n=100)[98] if len(took) > 1 else float("nan")


def _metrics(server: Serving) -> dict[str, float]:
    """Return the server's metrics by name and labels."""
    with urllib.request.urlopen(f"http://{server.http}/metrics") as page:
        lines = page.read().decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def _settle(server: Serving, flood: int) -> None:
    """Wait until the server has most calls of a flood, which begins with hundreds of megabytes of large pictures."""
    ends = time.monotonic() + _SETTLES_S
    while time.monotonic() < ends:
        values = _metrics(server).items()
        if sum(value for name, value in values if name.startswith("resonnx_requests_in_progress")) > 0.9 * flood:
            return
        time.sleep(0.2)


def _answered(before: dict[str, float], after: dict[str, float]) -> float:
    """Return the server's answers between two readings of its metrics."""
    return sum(after[name] - before[name] for name in after if name.startswith("nv_inference_request_success"))


def _longest_batch_ms(before: dict[str, float], after: dict[str, float], method: str) -> float:
    """Return the 99th percentile of the time of batches between two readings of the metrics of a method's model.

    The latencies of captions are of their steps together: theirs are the longest that the server expects of a batch.
    """
    if method == "Caption":
        expected = (
            after[name] for name in after if name.startswith(f'resonnx_batch_expected_seconds{{model="{_CAPTIONER}')
        )
        return max(expected) * 1e3
    counts = [
        (float(name.partition('le="')[2].partition('"')[0].replace("+Inf", "inf")), after[name] - before[name])
        for name in after
        if name.startswith('resonnx_compute_duration_seconds_bucket{model="small"')
    ]
    counts.sort()
    least, count = 0.0, 0.0
    for most, upto in counts:
        if upto >= 0.99 * counts[-1][1]:
            # Within a bucket, as if its batches were spread evenly.
            return (least + (most - least) * (0.99 * counts[-1][1] - count) / max(1.0, upto - count)) * 1e3
        least, count = most, upto
    return float("nan")


def measure(server: Serving, row: str, flood: int, seconds: float, folder: Path) -> dict[str, float]:
    """Return one round's figures of a row."""

    def caller(in_flight: int) -> list[float]:
        # Broken pictures are refused: the other caller sends whole ones.
        own = "jpeg" if row == "broken" else row
        return asyncio.run(_send(server.grpc, own, in_flight, seconds, folder))

    idle_many, idle_one = caller(16), caller(1)
    with _flooding(server.grpc, row, flood, folder) as process:
        _settle(server, flood)
        first, begin, begin_s = _metrics(server), time.perf_counter(), processor_s(process)
        many = caller(16)
        second, middle, middle_s = _metrics(server), time.perf_counter(), processor_s(process)
        one = caller(1)
        last, end, end_s = _metrics(server), time.perf_counter(), processor_s(process)
    shares = (middle_s - begin_s) / (middle - begin), (end_s - middle_s) / (end - middle)
    with burning(shares[0]):
        solo_many = caller(16)
    with burning(shares[1]):
        solo_one = caller(1)
    return {
        "16: idle/s": len(idle_many) / seconds,
        "solo/s": len(solo_many) / seconds,
        "beside/s": len(many) / seconds,
        "both/s": _answered(first, second) / (middle - begin),
        "share": len(many) / max(1, len(solo_many)),
        "1: share": len(one) / max(1, len(solo_one)),
        "p99 idle": _p99(idle_one),
        "p99 solo": _p99(solo_one),
        "p99 beside": _p99(one),
        "batch": _longest_batch_ms(second, last, _requests(row, folder)[0]),
        "flood's cores": shares[0],
    }


def main() -> int:
    """Measure and return the exit status: 1 if a bound is missed."""
    if sys.argv[1:2] == ["--flooding"]:
        address, row, in_flight, pictures = sys.argv[2:]
        asyncio.run(_flood(address, row, int(in_flight), Path(pictures)))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="measured time of a load")
    parser.add_argument("--rows", default=",".join(_ROWS))
    parser.add_argument("--flood", type=int, default=200, help="calls that the flood keeps in flight")
    parser.add_argument("--json", type=Path, help="also write the figures of each round here")
    given = parser.parse_args()
    rows = given.rows.split(",")
    models = repository(("small",))
    if "captions" in rows:
        captioners((_CAPTIONER,), models)
    values: dict[str, dict[str, list[float]]] = {row: {} for row in rows}
    with tempfile.TemporaryDirectory() as scratch, serving(models) as server:
        folder = Path(scratch)
        picture(np.random.default_rng(0), 4000, 3000).save(folder / "large.jpg", quality=85)
        for _ in range(given.rounds):
            for row in rows:
                for name, value in measure(server, row, given.flood, given.seconds, folder).items():
                    values[row].setdefault(name, []).append(value)
                last = {name: round(found[-1], 3) for name, found in values[row].items()}
                print(row, last, file=sys.stderr, flush=True)
    table = Table("row", *next(iter(values.values())))
    for row, found in values.items():
        table.add_row(row, *(f"{median(each):.3g} ({min(each):.3g} .. {max(each):.3g})" for each in found.values()))
    Console(width=140).print(table)
    if given.json:
        given.json.write_text(json.dumps(values, indent=1))
    return int(any(median(found["share"]) < _KEEPS for found in values.values()))


if __name__ == "__main__":
    sys.exit(main())
