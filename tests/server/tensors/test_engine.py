"""The engine on its real threads: answers belong to their requests, and batches are chosen."""

import asyncio
import gc
import random
import threading
import time
import weakref
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from resonnx_server.errors import (
    DeadlineUnreachable,
)
from resonnx_server.observe.metrics import Metrics
from resonnx_server.scheduling.deadline_admission import Objective
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool, Tensors
from resonnx_server.tensors.engine import TensorEngine

from ..asking import infer
from ..waiting import Clock, until
from .doubling import Doubling, rows_of, running_engine


@pytest.mark.parametrize("rows", [1, 20])
async def test_an_answered_request_is_kept_for_no_garbage_collection(rows: int) -> None:
    async with running_engine(Doubling()) as engine:
        gc.collect()
        gc.disable()
        try:
            inputs = rows_of(*range(rows))
            outputs, _ = await infer(engine, inputs)
            kept = [weakref.ref(inputs["x"]), weakref.ref(outputs["y"])]
            del inputs, outputs
            await until(lambda: not any(each() is not None for each in kept))
        finally:
            gc.enable()


async def test_a_request_is_answered_before_its_batch_is_counted() -> None:
    """And counted before the event loop does anything else, so that metrics know of each answer."""
    async with running_engine(Doubling()) as engine:
        await infer(engine, rows_of(1))
        assert engine.stats.executions == 0
        await asyncio.sleep(0)
        assert engine.stats.executions == 1


@pytest.mark.parametrize("lanes", [1, 2])
async def test_each_caller_gets_its_own_rows(lanes: int) -> None:
    async with running_engine(Doubling(), lanes, queue=10_000) as engine:

        async def ask(values: list[int]) -> None:
            outputs, timing = await infer(engine, rows_of(*values))
            assert outputs["y"].ravel().tolist() == [2 * value for value in values]
            assert 1 <= timing.batch_rows <= 16

        picks = random.Random(1)
        await asyncio.gather(*(ask([picks.randrange(10**6) for _ in range(picks.randint(1, 40))]) for _ in range(300)))
        await asyncio.sleep(0)
        assert engine.queued_rows() == 0


async def test_the_phases_of_a_request_fit_into_its_time() -> None:
    async with running_engine(Doubling()) as engine:
        asked = time.monotonic_ns()
        _, timing = await infer(engine, rows_of(1, 2))
        taken = time.monotonic_ns() - asked
    *phases, rows, start_ns, _ = timing
    assert rows == 2
    assert asked <= start_ns <= asked + taken
    assert min(phases) >= 0
    assert sum(phases) <= taken


async def test_a_session_that_was_slow_an_hour_ago_is_used_again_at_once() -> None:
    clock, many, few = Clock(), Doubling(), Doubling()
    group = InstanceGroup(
        SessionPool(many, LatencyTable({1: 1e6}, clock=clock), has_all_cores=True),
        SessionPool(few, LatencyTable({1: 2e6}, clock=clock)),
        max_concurrent_batches=2,
    )
    for _ in range(100):
        group.latency_session.table.record(1, 4_000_000)
    device = Device("test", 2, clock)
    engine = TensorEngine(group, device, Metrics().model("m", 1), max_queue_rows=100)
    try:
        await infer(engine, rows_of(1), deadline_ns=10**9)
        assert (many.entered, few.entered) == (0, 1)
        # An answer is told before its lane is free.
        await until(lambda: device.idle_lanes() == 2)
        clock.ns += 3600 * 10**9
        await infer(engine, rows_of(1), deadline_ns=clock.ns + 10**9)
        assert (many.entered, few.entered) == (1, 1)
    finally:
        engine.close()
        device.close()


async def test_waiting_requests_share_a_batch_of_a_warmed_size() -> None:
    runtime = Doubling()
    runtime.free.clear()
    async with running_engine(runtime) as engine:
        asks = [asyncio.ensure_future(infer(engine, rows_of(0)))]
        await until(lambda: runtime.entered == 1)
        asks += [asyncio.ensure_future(infer(engine, rows_of(i))) for i in range(12)]
        await until(lambda: engine.queued_rows() == 12)
        runtime.free.set()
        timings = [timing for _, timing in await asyncio.gather(*asks)]
    assert [timing.batch_rows for timing in timings] == [1] + [12] * 12
    assert set(runtime.sizes) <= set(sizes_up_to(16))


async def test_the_last_lane_is_kept_for_those_who_cannot_wait() -> None:
    """A model whose batches take 20 ms leaves one of two lanes to a model with an objective of 10 ms, however late."""
    slow, quick = Doubling(), Doubling()
    slow.free.clear()
    device = Device("test", 2)
    stats = Metrics().model("m", 1)
    costly, cheap = (SessionPool(runtime, LatencyTable({1: ns})) for runtime, ns in ((slow, 2e7), (quick, 1e6)))
    start = device.clock()
    heavy = TensorEngine(InstanceGroup(costly, costly, 2), device, stats, max_queue_rows=100)
    light = TensorEngine(InstanceGroup(cheap, cheap, 2), device, stats, max_queue_rows=100, objective=Objective(10**7))
    try:
        await infer(light, rows_of(0))
        asks = [asyncio.ensure_future(infer(heavy, rows_of(i))) for i in range(3)]
        await until(lambda: slow.entered == 1)
        # The job under way should have ended by now, and has not.
        await until(lambda: device.clock() - start > 3e7)
        asks.append(asyncio.ensure_future(infer(light, rows_of(3))))
        await until(lambda: quick.entered == 2)
        assert slow.entered == 1, "two rows wait, and the other lane was free for the other model"
        slow.free.set()
        answers = await asyncio.gather(*asks)
    finally:
        heavy.close()
        light.close()
        device.close()
    assert [outputs["y"].item() for outputs, _ in answers] == [0, 2, 4, 6]


@pytest.mark.parametrize(("rows", "beside"), [(1, False), (2, True)])
async def test_a_batch_on_all_cores_is_let_end_if_that_is_soon(rows: int, *, beside: bool) -> None:
    many, few = Doubling(), Doubling()
    many.free.clear()
    device = Device("test", 2)
    alone = SessionPool(many, LatencyTable({1: 1e9, 2: 2.5e9}), has_all_cores=True)
    shared = SessionPool(few, LatencyTable({1: 2e9, 2: 2.6e9}))
    engine = TensorEngine(InstanceGroup(alone, shared, 2), device, Metrics().model("m", 1), max_queue_rows=100)
    try:
        asks = [asyncio.ensure_future(infer(engine, rows_of(*range(rows))))]
        await until(lambda: many.entered == 1)
        asks.append(asyncio.ensure_future(infer(engine, rows_of(1, 2))))
        await until(lambda: few.entered == 1 if beside else engine.queued_rows() == 2)
        with device.lock:
            assert beside or engine.ready_at_ns() is None
        many.free.set()
        answers = await asyncio.gather(*asks)
        assert (few.entered, many.entered) == ((1, 1) if beside else (0, 2))
    finally:
        many.free.set()
        engine.close()
        device.close()
    assert [outputs["y"].ravel().tolist() for outputs, _ in answers] == [[2 * i for i in range(rows)], [2, 4]]


@pytest.mark.parametrize(("start_ns", "sizes"), [(0, [1, 1, 1, 1]), (1e9, [4])])
async def test_rows_that_take_long_do_not_wait_for_each_other(start_ns: float, sizes: list[int]) -> None:
    """Unless it is the batch that costs, or many wait for each instance."""
    runtime = Doubling()
    runtime.free.clear()
    device = Device("test")
    pool = SessionPool(runtime, LatencyTable({size: start_ns + 4e7 * size for size in sizes_up_to(16)}))
    engine = TensorEngine(InstanceGroup(pool, pool, 4), device, Metrics().model("m", 1), max_queue_rows=1000)
    try:
        asks = [asyncio.ensure_future(infer(engine, rows_of(0)))]
        await until(lambda: runtime.entered == 1)
        asks += [asyncio.ensure_future(infer(engine, rows_of(i))) for i in range(4)]
        await until(lambda: engine.queued_rows() == 4)
        runtime.free.set()
        await asyncio.gather(*asks)
    finally:
        engine.close()
        device.close()
    assert runtime.sizes[1:] == sizes


@pytest.mark.parametrize("lanes", [1, 2])
async def test_rows_of_large_requests_share_batches_and_come_back_in_order(lanes: int) -> None:
    runtime = Doubling()
    runtime.free.clear()
    async with running_engine(runtime, lanes) as engine:
        asks = [asyncio.ensure_future(infer(engine, rows_of(*range(100 * i, 100 * i + 25)))) for i in range(4)]
        await until(lambda: runtime.entered == lanes)
        runtime.free.set()
        answers = await asyncio.gather(*asks)
    for i, (outputs, timing) in enumerate(answers):
        assert outputs["y"].ravel().tolist() == [2 * value for value in range(100 * i, 100 * i + 25)]
        assert timing.queue_ns > 0
    assert sum(runtime.sizes) <= 104, "100 rows, and little padding"


async def test_a_busy_model_with_low_priorities_waiting_starves_no_other() -> None:
    device = Device("test")
    asked: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    class Busy(Doubling):
        def __call__(self, feeds: Mapping[str, np.ndarray]) -> Tensors:
            # Always with somebody important waiting when it ends.
            while self.entered and busy.queued_rows() < 3 and not asked.done():
                time.sleep(0.0001)
            return super().__call__(feeds)

    runtime = Busy()
    runtime.free.clear()
    busy, other = (
        TensorEngine(
            InstanceGroup.single(SessionPool(run, LatencyTable({1: 1e6}))),
            device,
            Metrics().model("m", 1),
            max_queue_rows=100,
        )
        for run in (runtime, Doubling())
    )

    async def ask_on_and_on() -> None:
        while not asked.done():
            await infer(busy, rows_of(1), priority=1)

    try:
        first = asyncio.ensure_future(infer(busy, rows_of(0)))
        await until(lambda: runtime.entered == 1)
        waits_since = device.clock()
        unimportant = asyncio.ensure_future(infer(busy, rows_of(2), priority=8))
        await until(lambda: busy.queued_rows() == 1 and device.clock() - waits_since > 1_100_000_000)
        callers = [asyncio.ensure_future(ask_on_and_on()) for _ in range(4)]
        await until(lambda: busy.queued_rows() == 5)
        runtime.free.set()
        async with asyncio.timeout(10):
            asked.set_result(await infer(other, rows_of(3)))
            await asyncio.gather(first, unimportant, *callers)
    finally:
        if not asked.done():
            asked.cancel()
        runtime.free.set()
        busy.close()
        other.close()
        device.close()


async def test_a_model_alone_is_as_quick_as_its_quickest_session() -> None:
    """Who has time enough for that, and not for the session that shares the device, is let in and answered."""
    runtime = Doubling()
    alone, shared = (
        SessionPool(runtime, LatencyTable({1: 1e6}), has_all_cores=True),
        SessionPool(runtime, LatencyTable({1: 5e6})),
    )
    device = Device("test", 2, Clock())
    engine = TensorEngine(InstanceGroup(alone, shared, 2), device, Metrics().model("m", 1), max_queue_rows=100)
    try:
        assert (await infer(engine, rows_of(4), deadline_ns=2_000_000))[0]["y"].item() == 8
        with pytest.raises(DeadlineUnreachable):
            await infer(engine, rows_of(4), deadline_ns=900_000)
    finally:
        engine.close()
        device.close()


async def test_who_is_answered_finds_the_lane_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a lane still does after its answer is told must not make the next request look as if it had to wait."""
    idle = []
    async with running_engine(Doubling()) as engine:
        loop = asyncio.get_running_loop()
        post = loop.call_soon_threadsafe

        def told(callback: Callable[..., object], *arguments: object) -> None:
            if threading.current_thread() is not threading.main_thread():
                idle.append(engine.device.idle_lanes() == engine.device.lanes)
            post(callback, *arguments)

        monkeypatch.setattr(loop, "call_soon_threadsafe", told)
        await infer(engine, {"x": np.ones((1, 1), np.float32)})
    assert idle == [True]
