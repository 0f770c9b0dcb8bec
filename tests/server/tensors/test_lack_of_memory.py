"""A batch that lacks memory runs in halves; a session that lacks it for one row is opened again."""

import asyncio

import numpy as np
import pytest
from resonnx_server.errors import InferenceFailed
from resonnx_server.observe.metrics import Metrics
from resonnx_server.runtime.memory_errors import is_lack_of_memory
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool, Tensors
from resonnx_server.tensors.engine import TensorEngine

from ..asking import infer
from ..waiting import until

ERRORS = [
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: std::bad_alloc",
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. Name:'c' "
    "Status Message: /onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal("
    "size_t, bool) Failed to allocate memory for requested buffer of size 1073741824",
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=a ; expr=cudaMalloc((void**)&p, size);",
    "CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED ; GPU=0",
    "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
]


@pytest.mark.parametrize("text", ERRORS)
def test_messages_of_onnx_runtime_and_cuda_are_recognised(text: str) -> None:
    assert is_lack_of_memory(RuntimeError(text))


@pytest.mark.parametrize("text", ["CUDA failure 700: an illegal memory access", "invalid input shape", ""])
def test_other_errors_are_not(text: str) -> None:
    assert not is_lack_of_memory(RuntimeError(text))


class Small:
    """Has memory for `rows` rows of a run, until it is opened again."""

    def __init__(self, rows: int) -> None:
        self.rows, self.sizes, self.opened = rows, list[int](), 0

    def run(self, feeds: Tensors) -> Tensors:
        size = len(feeds["x"])
        self.sizes.append(size)
        if size > self.rows:
            raise RuntimeError(ERRORS[1])
        return {"y": feeds["x"] * 2}

    def open_again(self) -> "object":
        self.opened += 1
        return lambda feeds: {"y": feeds["x"] * 2}


def _rows(*values: float) -> Tensors:
    return {"x": np.array(values, np.float32)[:, np.newaxis]}


@pytest.mark.parametrize("memory", [0, 2, 8])
async def test_one_request_of_many_rows(memory: int) -> None:
    model, device = Small(memory), Device("cpu", 1)
    pool = SessionPool(model.run, LatencyTable(dict.fromkeys((1, 2, 4, 8), 1000000.0)), False, model.open_again)  # type: ignore[arg-type]
    engine = TensorEngine(InstanceGroup.single(pool), device, Metrics().model("m", 1), max_queue_rows=64)
    try:
        if memory:
            outputs, _ = await infer(engine, _rows(*range(8)))
            assert outputs["y"][:, 0].tolist() == [2.0 * n for n in range(8)]
            assert model.sizes == ([8] if memory == 8 else [8, 4, 2, 2, 4, 2, 2])
            assert model.opened == 0
            return
        with pytest.raises(InferenceFailed, match="not enough memory"):
            await infer(engine, _rows(*range(8)))
        # The session is opened again, and not again at once for the next one.
        await until(lambda: engine.stats.session_events["replaced"] == 1)
        answers = await asyncio.gather(*(infer(engine, _rows(n)) for n in range(3)))
        assert [answer[0]["y"].item() for answer in answers] == [0, 2, 4]
        pool.run = model.run
        with pytest.raises(InferenceFailed, match="not enough memory"):
            await infer(engine, _rows(1))
        assert model.opened == 1
    finally:
        engine.close()
        assert device.close(10)
