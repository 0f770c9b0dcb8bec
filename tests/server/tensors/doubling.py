"""An engine of a model that doubles its input, on real threads."""

import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import numpy as np
from resonnx_server.observe.metrics import Metrics
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool, Tensors
from resonnx_server.tensors.engine import TensorEngine

COSTS = {size: 1e6 + 1e4 * size for size in sizes_up_to(16)}


class Doubling:
    """Doubles its input; can be held up, and fails on a poisoned row."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.sizes: list[int] = []
        self.entered = 0

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> Tensors:
        self.entered += 1
        self.free.wait(10)
        self.sizes.append(len(feeds["x"]))
        if (feeds["x"] == -1).any():
            raise RuntimeError("poisoned")
        return {"y": feeds["x"] * 2}


@asynccontextmanager
async def running_engine(
    runtime: Callable[[Mapping[str, np.ndarray]], Tensors],
    lanes: int = 1,
    queue: int = 1000,
    clock: Callable[[], int] = time.monotonic_ns,
    finite: bool = False,
) -> AsyncIterator[TensorEngine]:
    device = Device("test", lanes, clock)
    stats = Metrics().model("m", 1)
    pool = SessionPool(runtime, LatencyTable(COSTS))
    engine = TensorEngine(InstanceGroup(pool, pool, lanes), device, stats, max_queue_rows=queue, finite=finite)
    try:
        yield engine
    finally:
        if isinstance(runtime, Doubling):
            runtime.free.set()
        engine.close()
        device.close()


def rows_of(*values: int) -> Tensors:
    return {"x": np.array(values, np.int64).reshape(-1, 1)}
