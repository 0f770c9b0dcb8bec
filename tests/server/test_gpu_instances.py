"""How a model runs on a GPU is measured as on a CPU, but for threads: one session, one run at a time or two."""

import threading
import time

import numpy as np
import pytest
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.engine.runner import Tensors
from resonnx_server.repository import instances
from resonnx_server.repository.version import GPU_LANES
from resonnx_server.repository.warming import Warming
from resonnx_server.runtime.manifest import VersionFiles
from resonnx_server.runtime.session import CUDA, Candidate

from . import onnx_classifier


class OnGpu:
    """A session whose runs take 3 ms: beside another one no longer, or three times as long."""

    threads, spinning = 7, False

    def __init__(self, overlaps: bool) -> None:
        self.candidate = Candidate(CUDA, pb.PRECISION_FP32)
        self._overlaps = overlaps
        self._running = 0
        self._lock = threading.Lock()

    def run(self, feeds: Tensors) -> Tensors:
        with self._lock:
            self._running += 1
        # Long enough for the other one to have begun.
        time.sleep(0.003)
        if self._running > 1 and not self._overlaps:
            time.sleep(0.006)
        with self._lock:
            self._running -= 1
        return feeds


@pytest.mark.parametrize("overlaps", [True, False])
def test_two_at_once_where_copying_overlaps(overlaps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "Session", None)  # none is opened beside the one
    session = OnGpu(overlaps)
    files = VersionFiles("", {"model.onnx": b""}, pb.Manifest())
    version = onnx_classifier.version(threads=7, max_batch_size=1)
    warming = Warming(version, files, "model.onnx", lambda rows: {"x": np.zeros(rows)})
    runners = instances.settle(warming, session)  # type: ignore[arg-type]
    assert runners.instances == (GPU_LANES if overlaps else 1)
    assert runners.alone.run == runners.shared.run == session.run
