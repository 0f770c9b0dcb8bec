"""How costs grow: with models (start time and memory), callers, rows of a request, and the side of pictures.

    PYTHONPATH=benchmarks python benchmarks/load/scale.py --models 1,10,50
    PYTHONPATH=benchmarks python benchmarks/load/scale.py --models "" --callers 1,10,100,1000 --rows 1,4,16,64 \
        --pictures 32,128,512,2048

Each model is a ResNet-18 at 64x64 (44.7 MB) with a sum of its own, so that nothing measured for one is found in the
cache for another. Memory is that of the idle server once all are ready, from /proc/PID/smaps_rollup.

The other curves ask a ResNet-18 at 32x32: callers in closed loops (by the program that load/generator.py finds); rows
and pictures by one caller. Each has the server's processor time beside the time on the clock, as load generators share
the processors.
"""

import argparse
import hashlib
import io
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import grpc
import numpy as np
from load.generator import Generator, find_perf_analyzer
from load.server_process import Serving, serving
from PIL import Image
from random_models.classifiers import repository
from reports.rounds import Rounds
from resonnx import Client
from resonnx_proto.inference import grpc_service_pb2 as oip
from resonnx_proto.inference import grpc_service_pb2_grpc as oip_grpc
from resonnx_server.runtime import wire

_MODEL = "resnet18_64"
# The model of the other curves, and the side of its pictures.
_ASKED, _SIDE = "small", 32
_FILE, _SUMS = "model.onnx", "SHA256SUMS"
# ModelProto.doc_string, which changes a file's sum and nothing else.
_DOC_STRING = 6
# Tables that were measured on a busy machine are measured again, three times at most.
_MOST_STARTS = 4
_KINDS = ("Pss", "Rss", "Private_Dirty", "VmHWM")


def write_models(folder: Path, source: Path, count: int) -> None:
    """Write `count` models like the version in `source`, each with another sum, those that are missing."""
    for number in range(count):
        version = folder / f"model{number:02}" / "1"
        if version.exists():
            continue
        shutil.copytree(source, version)
        text = f"copy {number}".encode()
        content = (source / _FILE).read_bytes() + wire.opening(_DOC_STRING, len(text)) + text
        (version / _FILE).write_bytes(content)
        lines = [line for line in (source / _SUMS).read_text().splitlines() if not line.endswith(f" {_FILE}")]
        lines.append(f"{hashlib.sha256(content).hexdigest()}  {_FILE}")
        (version / _SUMS).write_text("\n".join(sorted(lines, key=lambda line: line.split()[1])) + "\n")


def memory_mb(pid: int) -> dict[str, float]:
    """Return a process's memory in MB: Pss, Rss, private dirty pages, and the largest Rss so far; see proc(5)."""
    texts = [Path(f"/proc/{pid}/{file}").read_text() for file in ("smaps_rollup", "status")]
    kb = {line.split()[0].rstrip(":"): line.split()[1] for line in "".join(texts).splitlines() if len(line.split()) > 1}
    return {kind: int(kb[kind]) * 1024 / 1e6 for kind in _KINDS}


def start(models: Path, cache: Path, provider: str, checkout: Path | None) -> tuple[float, float, dict[str, float]]:
    """Return the seconds from the process's start to its line "ready", its processor time and its memory then."""
    began = time.perf_counter()
    with serving(models, "--cache-dir", str(cache), "--provider", provider, checkout=checkout) as server:
        return time.perf_counter() - began, server.processor_s, memory_mb(server.pid)


def _tables(cache: Path) -> set[tuple[str, int]]:
    """Return what shows whether a start has measured anything."""
    return {(file.name, file.stat().st_mtime_ns) for file in cache.iterdir()}


def measured(scratch: Path, count: int, provider: str, checkout: Path | None) -> dict[str, float]:
    """Return figures of `count` models of those in `scratch`, by name."""
    models = scratch / f"{count} models"
    models.mkdir(exist_ok=True)
    for folder in sorted((scratch / "all").iterdir())[:count]:
        if not (models / folder.name).exists():
            (models / folder.name).symlink_to(folder)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=scratch) as cache:
        for number in range(_MOST_STARTS):
            tables = _tables(Path(cache))
            seconds, processor_s, memory = start(models, Path(cache), provider, checkout)
            kind = "full" if number else "empty"
            figures[f"ready s, {kind} cache"] = seconds
            figures[f"processor s until ready, {kind} cache"] = processor_s
            if _tables(Path(cache)) == tables:
                break
    return figures | {f"{kind} MB": mb for kind, mb in memory.items()}


Curve = Iterator[tuple[str, str, float]]


def callers(server: Serving, counts: Sequence[int], seconds: float) -> Curve:
    """Yield figures of closed loops of so many callers, each with one row at a time."""
    generator = Generator(find_perf_analyzer(None), seconds)
    for count in counts:
        before, answers = server.processor_s, server.answers
        found = generator.closed(server.grpc, _ASKED, count)
        # All of them, also those of the warm-up and after the measured time.
        spent_ms = (server.processor_s - before) / (server.answers - answers) * 1e3
        yield f"{count} callers", "answers a second", found.rate
        yield f"{count} callers", "p50 ms", found.p50_ms or math.inf
        yield f"{count} callers", "p99 ms", found.p99_ms or math.inf
        yield f"{count} callers", "server's processor ms an answer", spent_ms


def _repeated(server: Serving, ask: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Return the median time of a call in ms, and the server's processor time of one in ms."""
    for _ in range(3):
        ask()
    times: list[float] = []
    before, end = server.processor_s, time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        ask()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3, (server.processor_s - before) / len(times) * 1e3


def rows(server: Serving, counts: Sequence[int], seconds: float) -> Curve:
    """Yield figures of one caller's requests of so many rows."""
    with grpc.insecure_channel(server.grpc) as channel:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
        for count in counts:
            pixels = np.random.default_rng(0).integers(0, 256, (count, _SIDE, _SIDE, 3), np.uint8)
            given = oip.ModelInferRequest.InferInputTensor(name="image", shape=pixels.shape, datatype="UINT8")
            request = oip.ModelInferRequest(model_name=_ASKED, inputs=[given], raw_input_contents=[pixels.tobytes()])
            median_ms, spent_ms = _repeated(server, partial(stub.ModelInfer, request), seconds)
            yield f"{count} rows", "ms a row", median_ms / count
            yield f"{count} rows", "server's processor ms a row", spent_ms / count


def pictures(server: Serving, sides: Sequence[int], seconds: float) -> Curve:
    """Yield figures of one caller's JPEG files of so many pixels a side."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    with Client(server.grpc) as client:
        for side in sides:
            file = io.BytesIO()
            Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
            content = file.getvalue()
            median_ms, spent_ms = _repeated(server, partial(client.classify, content, _ASKED), seconds)
            yield f"{side} px", "kB", len(content) / 1e3
            yield f"{side} px", "ms", median_ms
            yield f"{side} px", "server's processor ms", spent_ms


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="1,10,50", help="numbers of models; empty for none")
    parser.add_argument("--callers", default="", help="numbers of callers")
    parser.add_argument("--rows", default="", help="numbers of rows of a request")
    parser.add_argument("--pictures", default="", help="sides of pictures in pixels")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time of a point of these curves")
    parser.add_argument("--rounds", type=int, default=1, help="starts of each kind")
    parser.add_argument("--provider", default="cpu", help="of all models; auto for the fastest that agrees")
    parser.add_argument("--against", type=Path, help="folder of another version, which takes turns")
    parser.add_argument("--json", type=Path, help="file for every round's figures")
    asked = parser.parse_args()
    checkouts = {"this": None, **({"other": asked.against} if asked.against else {})}
    curves = [(curve, _numbers(given)) for curve, given in _curves(asked) if given]
    for version, checkout in checkouts.items() if curves else ():
        with serving(repository((_ASKED,)), "--provider", asked.provider, checkout=checkout) as server:
            for curve, points in curves:
                for point, figure, value in curve(server, points, asked.seconds):
                    print(f"{version}, {point}: {figure} {value:.4g}", flush=True)
    if not asked.models:
        return
    source = repository((_MODEL,)) / _MODEL / "1"
    weights_mb = (source / _FILE).stat().st_size / 1e6
    counts = _numbers(asked.models)
    rounds = Rounds("version", "models", "figure")
    with tempfile.TemporaryDirectory() as scratch:
        write_models(Path(scratch, "all"), source, counts[-1])
        for _ in range(asked.rounds):
            for version, checkout in checkouts.items():
                first: dict[str, float] = {}
                for count in counts:
                    found = measured(Path(scratch), count, asked.provider, checkout)
                    if first:
                        grown = (found["Pss MB"] - first["Pss MB"]) / (count - counts[0])
                        found["Pss MB a further model, beyond its weights"] = grown - weights_mb
                    first = first or found
                    for figure, value in found.items():
                        rounds.add(version, str(count), figure, value=value)
                        print(f"{version}, {count} models: {figure} {value:.4g}", flush=True)
    rounds.show({})
    if asked.json:
        rounds.write(asked.json, weights_mb=weights_mb)


def _curves(asked: argparse.Namespace) -> list[tuple[Callable[[Serving, Sequence[int], float], Curve], str]]:
    return [(callers, asked.callers), (rows, asked.rows), (pictures, asked.pictures)]


def _numbers(text: str) -> list[int]:
    return sorted(int(number) for number in text.split(","))


if __name__ == "__main__":
    main()
