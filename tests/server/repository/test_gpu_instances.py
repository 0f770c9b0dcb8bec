"""How a model runs on a GPU is settled as on a CPU, but for threads: one session, one run at a time or two."""

import math
from unittest.mock import Mock

import numpy as np
import pytest
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.repository import instances
from resonnx_server.repository.choosing.turns import Callers
from resonnx_server.repository.version import GPU_LANES
from resonnx_server.repository.warming import Warming
from resonnx_server.runtime.model_files.manifest import VersionFiles
from resonnx_server.runtime.session import CUDA, Candidate
from resonnx_server.scheduling.session_pool import Tensors

from .. import onnx_classifier


class OnGpu:
    """A session on a GPU, which computes nothing: what it costs is told."""

    threads, spinning, view = 7, False, None
    candidate = Candidate(CUDA, pb.PRECISION_FP32)

    def run(self, feeds: Tensors) -> Tensors:
        return {}

    def opener(self) -> None:
        """None is opened again."""


@pytest.mark.parametrize(
    ("beside_ns", "expected"),
    [
        pytest.param(3.0e6, GPU_LANES, id="copying overlaps"),
        pytest.param(5.7e6, GPU_LANES, id="a twentieth overlaps"),
        pytest.param(5.95e6, 1, id="less overlaps than matters"),
        pytest.param(6.0e6, 1, id="nothing overlaps"),
        pytest.param(9.0e6, 1, id="they are in each other's way"),
    ],
)
def test_two_at_once_where_copying_overlaps(beside_ns: float, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run takes 3 ms by itself, and `beside_ns` beside another one."""
    monkeypatch.setattr(OnGpu, "opened_again", None, raising=False)  # none is opened beside the one
    session = OnGpu()

    def log_ns_a_row(callers: Callers, run: object, size: int) -> float:
        return math.log({1: 3.0e6, GPU_LANES: beside_ns}[callers.count] / (callers.count * size))

    monkeypatch.setattr(Callers, "log_ns_a_row", log_ns_a_row)
    files = VersionFiles("", {"model.onnx": b""}, pb.Manifest())
    version = onnx_classifier.version(threads=7, max_batch_size=1)
    warming = Warming(version, files, "model.onnx", lambda session, rows: session.run({"x": np.zeros(rows)}))
    group = instances.choose_instances(warming, session, Mock())  # type: ignore[arg-type]
    assert group.max_concurrent_batches == expected
    assert group.latency_session.run == group.throughput_session.run == session.run
    assert (group.latency_session is group.throughput_session) == (expected == 1)
