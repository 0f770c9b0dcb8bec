"""Page-locked buffers, with a CUDA runtime that only takes notes: each is locked before use and unlocked after it."""

import gc
import logging
from pathlib import Path

import numpy as np
import pytest
from resonnx_server.devices import Devices
from resonnx_server.repository.version import GPU_LANES
from resonnx_server.runtime.page_locked import PageLockedMemory, loaded_library
from resonnx_server.runtime.session import CPU, CUDA, OPENVINO, TENSORRT
from resonnx_server.scheduling.session_pool import BufferPool


class Runtime:
    """What of libcudart is used; gives an error if told to."""

    def __init__(self, error: int = 0) -> None:
        self.error = error
        self.asked = 0
        self.locked: dict[int, int] = {}

    def cudaHostRegister(self, pointer: object, count: object, flags: object) -> int:  # noqa: N802
        self.asked += 1
        assert flags.value == 0
        if not self.error:
            # Pages are locked: of two buffers, none may be the same.
            first, last = pointer.value // 4096, (pointer.value + count.value - 1) // 4096
            for other, length in self.locked.items():
                assert last < other // 4096 or first > (other + length - 1) // 4096
            self.locked[pointer.value] = count.value
        return self.error

    def cudaHostUnregister(self, pointer: object) -> int:  # noqa: N802
        del self.locked[pointer.value]
        return 0


def test_a_buffer_is_locked_as_long_as_anything_sees_it() -> None:
    runtime = Runtime()
    memory = PageLockedMemory(runtime)
    arrays = [memory.allocate((4, 3, 5), np.uint8), memory.allocate((1,), np.int64), memory.allocate((70, 90), "f4")]
    for array in arrays:
        assert runtime.locked[array.ctypes.data] == array.nbytes
        assert not array.any()
        array[:] = 7
        assert (array == 7).all()
    row = arrays[0][1:, 2]
    address = arrays[0].ctypes.data
    del array
    arrays.clear()
    gc.collect()
    assert list(runtime.locked) == [address]
    assert (row == 7).all()
    del row
    gc.collect()
    assert not runtime.locked


def test_what_cannot_be_locked_is_pageable_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    runtime = Runtime(error=2)
    memory = PageLockedMemory(runtime)
    with caplog.at_level(logging.WARNING):
        arrays = [memory.allocate((8, 8), np.uint8) for _ in range(3)]
    assert [array.shape for array in arrays] == [(8, 8)] * 3
    (warning,) = caplog.records
    assert "error 2" in warning.reason
    assert runtime.asked == 1
    del arrays
    gc.collect()


def test_without_a_cuda_runtime_memory_is_pageable(caplog: pytest.LogCaptureFixture) -> None:
    memory = PageLockedMemory()
    with caplog.at_level(logging.WARNING):
        assert (
            memory.allocate((2, 2), np.float32).tolist() == memory.allocate((2, 2), np.float32).tolist() == [[0, 0]] * 2
        )
    assert [warning.reason for warning in caplog.records] == ["no libcudart is loaded"]


def test_objects_and_nothing_are_not_locked() -> None:
    runtime = Runtime()
    memory = PageLockedMemory(runtime)
    assert memory.allocate((0, 4), np.uint8).shape == (0, 4)
    words = BufferPool(4, memory.allocate).join([np.array(["a"], object), np.array(["b"], object)], 3)[0]
    assert words.tolist() == ["a", "b", "a"]
    assert not runtime.locked


def test_the_library_is_the_one_that_is_loaded(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(
        "7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n"
        "7f0000001000-7f0000002000 r-xp 00000000 08:01 17                 /usr/lib/libc.so.6\n"
        "7f0000002000-7f0000003000 r-xp 00000000 08:01 18   /opt/my models/nvidia/lib/libcudart.so.13\n"
    )
    assert loaded_library("libcudart.so", maps) == "/opt/my models/nvidia/lib/libcudart.so.13"
    assert loaded_library("libnvinfer.so", maps) is None
    assert loaded_library("libcudart.so", tmp_path / "no maps") is None
    assert Path(loaded_library("libc.so") or "").exists(), "as it is in this very process"


def test_batches_are_put_together_in_locked_buffers() -> None:
    runtime = Runtime()
    staging = BufferPool(8, PageLockedMemory(runtime).allocate)
    parts = [np.full((2, 3), 1, np.uint8), np.full((1, 3), 2, np.uint8)]
    batch, buffer = staging.join(parts, 4)
    assert batch.ctypes.data in runtime.locked
    assert batch[:3, 0].tolist() == [1, 1, 2]
    staging.release(buffer)
    again, _ = staging.join(parts, 8)
    assert again.ctypes.data == batch.ctypes.data, "locked once, lent again"


def test_a_gpu_is_a_device_of_its_own() -> None:
    devices = Devices(cores=2)
    try:
        gpu, cpu = devices.of(CUDA), devices.of(CPU)
        assert devices.of(TENSORRT) is gpu
        assert devices.of(OPENVINO) is cpu
        assert [*devices] == [gpu, cpu]
        assert (gpu.name, gpu.lanes) == ("gpu", GPU_LANES)
        assert (cpu.name, cpu.lanes) == ("cpu", 2)
        assert isinstance(gpu.allocate.__self__, PageLockedMemory)  # type: ignore[attr-defined]
        assert cpu.allocate is np.zeros
    finally:
        for device in devices:
            device.close()
