"""Copies of requests: bounded in number and memory, and never a view of what somebody may change."""

import asyncio

import numpy as np
from resonnx_server.comparison.copies import Copies
from resonnx_server.comparison.running import idle
from resonnx_server.memory.budget import Budget
from resonnx_server.scheduling.device import Device

_PIXELS = np.zeros((1, 8, 8, 3), np.uint8)
_ANSWER = np.float32([0.5, 0.5])


async def test_many_copies_are_dropped_and_counted_and_their_memory_is_given_back() -> None:
    budget = Budget(1 << 24)
    copies = Copies(budget)
    for _ in range(200):
        copies.offer(_PIXELS, [_ANSWER], 1)
    assert (len(copies), copies.dropped) == (128, 72)
    assert budget.used == 128 * _PIXELS.nbytes
    for copy in copies.take(100):
        copy.charge.release()
    copies.clear()
    assert (len(copies), budget.used) == (0, 0)


async def test_requests_have_the_memory_first() -> None:
    budget = Budget(64 * 192)
    copies = Copies(budget)
    for _ in range(64):
        copies.offer(_PIXELS, [_ANSWER], 1)
    # A sixteenth of what requests share.
    assert (len(copies), copies.dropped) == (4, 60)
    copies.clear()
    with budget.charge("ip:a", 40 * 192), budget.charge("ip:b", 18 * 192, answer=True):
        copies.offer(_PIXELS, [_ANSWER], 1)
    assert (len(copies), copies.dropped) == (0, 61)


async def test_pictures_in_memory_of_others_are_copied() -> None:
    copies, message = Copies(Budget(1 << 24)), bytearray(8 * 8 * 3)
    shared = np.frombuffer(message, np.uint8).reshape(1, 8, 8, 3)
    copies.offer(shared, [_ANSWER], 1)
    message[0] = 7
    own = np.zeros((8, 8, 3), np.uint8)[np.newaxis]
    copies.offer(own, [_ANSWER], 1)
    first, second = copies.take(2)
    assert first.pixels[0, 0, 0] == 0
    assert np.shares_memory(second.pixels, own)


async def test_idle_waits_for_the_end_of_jobs() -> None:
    """The device calls back only when more than half of its lanes are free, and once."""

    device = Device("test", lanes=2)
    try:
        await asyncio.wait_for(idle(device), 10)
        with device.lock:
            device._under_way[-1] = device._under_way[-2] = None  # type: ignore[assignment]
        waiting = asyncio.create_task(idle(device))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
        with device.lock:
            device._under_way.clear()
            device.wake()
        await asyncio.wait_for(waiting, 10)
        assert not device._when_idle
    finally:
        device.close()
