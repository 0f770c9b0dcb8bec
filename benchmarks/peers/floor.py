"""What no server can exceed: JPEG files decoded and run by ONNX Runtime on every core, without serving.

    PYTHONPATH=benchmarks python -m peers.floor [--rounds 3] [--seconds 1.5]

A process for each core decodes pictures of 640x480 as the server does, and runs ResNet-50 in int8 on one thread
in batches, all at the same time. Printed are pictures a second, and processor time of decoding and of the model in ms a
picture. With one process alone, the model takes less where cores share caches or execution units.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final, TypeAlias

import numpy as np
import onnxruntime as ort
from google.protobuf import json_format
from pictures.photographs import write_pictures
from random_models.classifiers import repository
from resonnx_proto.v1.manifest_pb2 import Manifest
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.options import PictureOptions

_MODEL: Final = "resnet50_int8"
_BATCHES: Final = (1, 4, 8)
_WARM_UP_S: Final = 0.3

Worker: TypeAlias = "subprocess.Popen[str]"


def _work(folder: Path) -> None:
    """Take lines of batch, beginning and seconds; print pictures, and the processor time of both parts, for each."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    graph = repository((_MODEL,)) / _MODEL / "1/model.onnx"
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    files = [file.read_bytes() for file in sorted(folder.glob("*.jpg"))]
    recipe = _options()
    print("ready", flush=True)
    for line in sys.stdin:
        batch, begins, seconds = int(line.split()[0]), *map(float, line.split()[1:])
        spent = {"decode": 0.0, "model": 0.0}
        pictures = 0
        while (now := time.time()) < begins + seconds:
            started = time.thread_time()
            pixels = np.stack([images.load(files[i % len(files)], recipe) for i in range(pictures, pictures + batch)])
            decoded = time.thread_time()
            session.run(["probabilities"], {"image": pixels})
            if now >= begins:
                pictures += batch
                spent["decode"] += decoded - started
                spent["model"] += time.thread_time() - decoded
        print(json.dumps({"pictures": pictures, **spent}), flush=True)


def _options() -> PictureOptions:
    text = (repository((_MODEL,)) / _MODEL / "1/manifest.json").read_text()
    return PictureOptions(json_format.Parse(text, Manifest(), ignore_unknown_fields=True).input)


def _measure(workers: Sequence[Worker], batch: int, seconds: float) -> tuple[float, float, float]:
    """Return pictures a second, and processor time of decoding and of the model in ms a picture."""
    begins = time.time() + _WARM_UP_S
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(f"{batch} {begins} {seconds}\n")
        worker.stdin.flush()
    found = [json.loads(_line(worker)) for worker in workers]
    pictures = sum(one["pictures"] for one in found)
    decode, model = (1e3 * sum(one[part] for one in found) / pictures for part in ("decode", "model"))
    return pictures / seconds, decode, model


def _line(worker: Worker) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        _work(given.work)
        return
    repository((_MODEL,))
    cores = sorted(os.sched_getaffinity(0))[: usable_cores()]
    ways = [(batch, processes) for batch in _BATCHES for processes in sorted({1, len(cores)})]
    found: dict[tuple[int, int], list[tuple[float, float, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        write_pictures(Path(name))
        command = [sys.executable, "-m", "peers.floor", "--work", name]
        workers = [
            subprocess.Popen(
                ["taskset", "-c", str(core), *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for core in cores
        ]
        for worker in workers:
            _line(worker)
        for _ in range(given.rounds):
            for batch, processes in ways:
                found[batch, processes].append(_measure(workers[:processes], batch, given.seconds))
        for worker in workers:
            worker.communicate()
    print("| batch | processes | pictures/s | decode, ms | model, ms |\n|---|---|---|---|---|")
    for (batch, processes), values in found.items():
        rates, decode, model = zip(*values, strict=True)
        spread = f"{median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"
        print(f"| {batch} | {processes} | {spread} | {median(decode):.1f} | {median(model):.1f} |")


if __name__ == "__main__":
    main()
