"""What sessions keep of large runs is freed on request, and they run on."""

import sys

import numpy as np
import pytest
from resonnx_proto.v1.manifest_pb2 import PRECISION_FP32
from resonnx_server.memory.freed import give_back_memory
from resonnx_server.runtime.arenas import shrink_arenas
from resonnx_server.runtime.machine.memory import resident_bytes
from resonnx_server.runtime.session import CPU, Candidate, Session

from .. import bare_graphs

MB = 1 << 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def test_sessions_free_the_memory_of_their_largest_runs_and_run_on() -> None:
    session = Session(bare_graphs.doubling_any(), Candidate(CPU, PRECISION_FP32), 1)
    rows = np.ones((1, 10 * MB), np.float32)
    # What tests before this one have left is not counted.
    give_back_memory()
    answers = [session.run({"x": rows})["y"] for _ in range(3)]
    before = resident_bytes()
    del answers
    give_back_memory()
    assert before - resident_bytes() < 30 * MB, "the session keeps them"
    shrink_arenas()
    assert before - resident_bytes() > 70 * MB
    assert session.run({"x": rows[:, :2]})["y"].tolist() == [[2, 2]]


def test_a_run_that_is_under_way_is_not_disturbed() -> None:
    session = Session(bare_graphs.doubling_any(), Candidate(CPU, PRECISION_FP32), 1)
    answer = session.run({"x": np.ones((1, MB), np.float32)})["y"]
    shrink_arenas()
    assert (answer == 2).all(), "its memory is used"
