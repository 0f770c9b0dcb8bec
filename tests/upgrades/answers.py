"""What a server answers for fixed pictures, from its command to the answer."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypedDict

import grpc
import numpy as np
from PIL import Image
from resonnx_proto.v1 import vision_pb2 as pb
from resonnx_proto.v1 import vision_pb2_grpc

_PICTURES = 4
_READY = re.compile(r".*grpc=(\S+)")


class Answers(TypedDict):
    """Answers for each picture, in order."""

    # All labels with their probabilities, best first.
    predictions: list[list[tuple[str, float]]]
    # The caption and its log-probability.
    captions: list[tuple[str, float]]


class Repository(NamedTuple):
    """A model repository and the folder of its latency tables."""

    folder: Path
    cache: Path


@contextmanager
def serving(repository: Repository, *, environment: Mapping[str, str], cwd: Path | None = None) -> Iterator[str]:
    """Serve `repository` on a free port and yield its address, HOST:PORT.

    Raises:
        RuntimeError: The server does not start.
    """
    command = [sys.executable, "-m", "resonnx_server", "--repository", str(repository.folder.resolve()), "--strict"]
    command += ["--port", "0", "--http-port", "0", "--provider", "cpu", "--cache-dir", str(repository.cache.resolve())]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}, cwd=cwd
    ) as process:
        try:
            assert process.stdout is not None
            match = _READY.match(process.stdout.readline())
            if match is None:
                raise RuntimeError("the server did not start")
            yield match[1]
        finally:
            process.terminate()


def ask_all(address: str, suffix: str = "") -> Answers:
    """Return the answers of the server at `address` with the models `classifier` and `captioner`, plus `suffix`."""
    answers = Answers(predictions=[], captions=[])
    with grpc.insecure_channel(address) as channel:
        stub = vision_pb2_grpc.VisionStub(channel)
        for number in range(_PICTURES):
            image = pb.Image(encoded=picture(number))
            labels = stub.Classify(pb.ClassifyRequest(model=f"classifier{suffix}", image=image, top_k=7), timeout=30)
            answers["predictions"].append([(found.label, found.score) for found in labels.predictions])
            captions = stub.Caption(pb.CaptionRequest(model=f"captioner{suffix}", image=image), timeout=30).captions
            answers["captions"].append((captions[0].text, captions[0].log_prob))
    return answers


def picture(number: int) -> bytes:
    """Return a PNG file of random colours, of another size for each number."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((40 + 9 * number, 57), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()
