"""Requests of bare ONNX files are admitted by the number of their rows."""

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from resonnx_server.errors import DeadlineUnreachable, Overloaded
from resonnx_server.inference.lease import Lease
from resonnx_server.inference.requests import ActiveRequest
from resonnx_server.inference.tensors import infer
from resonnx_server.memory.budget import Budget
from resonnx_server.observe.metrics import Metrics
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool, Tensors
from resonnx_server.tensors.engine import TensorEngine


async def _infer(
    rows: int, queue: int, max_batch_size: int, deadline_ns: int | None = None, whole: bool = False
) -> Tensors:
    """Run `rows`, of a second each, through a model that gives back its input, with room for `queue` rows."""
    stats = Metrics().model("m", 1)
    table = LatencyTable({1: 1e9, 8: 8e9})
    sessions = InstanceGroup.single(SessionPool(lambda feeds: {"y": feeds["x"]}, table))
    device = Device("test", 1)
    engine = TensorEngine(sessions, device, stats, max_queue_rows=queue, batched=max_batch_size > 0)
    shares_batches = max_batch_size > 0
    model: Any = SimpleNamespace(
        stats=stats, engine=engine, max_batch_size=max_batch_size, shares_batches=shares_batches, lease=Lease()
    )
    request = ActiveRequest(model, None, Budget(1000), 1)  # type: ignore[arg-type]
    try:
        with request:
            request.limit(deadline_ns, 0, 0, named=False)
            return await infer(request, {"x": np.arange(rows).reshape(rows, 1)}, whole=whole)
    finally:
        engine.close()
        device.close()


async def test_each_row_of_a_batched_request_takes_room() -> None:
    assert (await _infer(4, queue=4, max_batch_size=8))["y"].ravel().tolist() == [0, 1, 2, 3]
    with pytest.raises(Overloaded):
        await _infer(5, queue=4, max_batch_size=8)


async def test_a_request_without_a_batch_axis_takes_the_room_of_one() -> None:
    assert (await _infer(5, queue=1, max_batch_size=0))["y"].ravel().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("whole", [False, True])
async def test_a_deadline_is_held_against_the_time_of_all_rows(whole: bool) -> None:
    in_4_s = time.monotonic_ns() + 4 * 10**9
    assert len((await _infer(1, 8, 8, in_4_s, whole))["y"]) == 1
    with pytest.raises(DeadlineUnreachable):
        await _infer(8, 8, 8, in_4_s, whole)
