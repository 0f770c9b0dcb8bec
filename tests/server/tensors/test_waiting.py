"""Requests that wait on the engine's real threads: cancelled, late, refused, or ended by the close."""

import asyncio
import random

import pytest
from resonnx_server.errors import (
    DeadlineExceeded,
    DeadlineUnreachable,
    Overloaded,
    Unavailable,
    WaitTooLong,
)
from resonnx_server.observe.metrics import Metrics
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool
from resonnx_server.tensors.engine import TensorEngine

from ..asking import infer
from ..waiting import Clock, until
from .doubling import Doubling, rows_of, running_engine


async def test_few_rows_begin_beside_a_batch_of_few() -> None:
    """16 rows are most efficient here, but five callers would never have so many, and one lane would always idle."""
    runtime = Doubling()
    runtime.free.clear()
    async with running_engine(runtime, lanes=2, clock=Clock()) as engine:
        asks = [asyncio.ensure_future(infer(engine, rows_of(*range(5))))]
        await until(lambda: runtime.entered == 1)
        asks += [asyncio.ensure_future(infer(engine, rows_of(i))) for i in range(4)]
        await until(lambda: engine.queued_rows() == 4)
        with engine.device.lock:
            at = engine.ready_at_ns()
        assert at is not None
        assert at > engine.device.clock() + 1e8, "four rows are few beside five, and wait until they would be late"
        asks.append(asyncio.ensure_future(infer(engine, rows_of(4))))
        await until(lambda: runtime.entered == 2)
        assert engine.queued_rows() == 0
        runtime.free.set()
        await asyncio.gather(*asks)
        with engine.device.lock:
            assert engine._running_rows == 0
    assert runtime.sizes == [6, 6]


async def test_of_several_callers_none_gets_all_cores() -> None:
    """Those that were just answered would wait for them; a caller that stays alone gets them soon."""
    many, few, device = Doubling(), Doubling(), Device("test", 2)
    alone, shared = (
        SessionPool(many, LatencyTable({1: 1e6}), has_all_cores=True),
        SessionPool(few, LatencyTable({1: 2e6})),
    )
    engine = TensorEngine(InstanceGroup(alone, shared, 2), device, Metrics().model("m", 1), max_queue_rows=100)
    try:
        many.free.clear()
        asks = [asyncio.ensure_future(infer(engine, rows_of(0)))]
        await until(lambda: many.entered == 1)
        asks += [asyncio.ensure_future(infer(engine, rows_of(i))) for i in range(4)]
        await until(lambda: engine.queued_rows() == 4)
        many.free.set()
        await asyncio.gather(*asks)
        assert many.entered == 1, "the first one came alone"
        await infer(engine, rows_of(1))
        assert many.entered == 1
        for _ in range(20):
            await infer(engine, rows_of(1))
        assert many.entered > 1
    finally:
        many.free.set()
        engine.close()
        device.close()


async def test_cancelled_and_expired_never_reach_the_device() -> None:
    runtime = Doubling()
    runtime.free.clear()
    clock = Clock()
    async with running_engine(runtime, clock=clock) as engine:
        first = asyncio.ensure_future(infer(engine, rows_of(1)))
        await until(lambda: runtime.entered == 1)
        gone = asyncio.ensure_future(infer(engine, rows_of(2, 3)))
        late = asyncio.ensure_future(infer(engine, rows_of(4), deadline_ns=50_000_000))
        kept = asyncio.ensure_future(infer(engine, rows_of(5)))
        await until(lambda: engine.queued_rows() == 4)
        gone.cancel()
        await until(lambda: engine.queued_rows() == 2)
        clock.ns = 50_000_001
        runtime.free.set()
        assert (await kept)[0]["y"].item() == 10
        await first
        with pytest.raises(DeadlineExceeded):
            await late
    assert runtime.sizes == [1, 1]


async def test_a_deadline_that_is_ahead_is_not_told_to_have_passed() -> None:
    """A batch takes longer than expected; then it is the turn of one who has less time left than a batch takes."""
    runtime = Doubling()
    runtime.free.clear()
    clock = Clock()
    async with running_engine(runtime, clock=clock) as engine:
        first = asyncio.ensure_future(infer(engine, rows_of(1)))
        await until(lambda: runtime.entered == 1)
        ahead = asyncio.ensure_future(infer(engine, rows_of(2), deadline_ns=9_000_000))
        passed = asyncio.ensure_future(infer(engine, rows_of(3), deadline_ns=4_000_000))
        await until(lambda: engine.queued_rows() == 2)
        clock.ns = 8_500_000
        runtime.free.set()
        with pytest.raises(WaitTooLong, match=r"would take 1\.\d+ ms and its deadline allows 0\.5 ms"):
            await ahead
        with pytest.raises(DeadlineExceeded, match="passed"):
            await passed
        await first
    assert runtime.sizes == [1]


async def test_a_deadline_that_cannot_be_met_is_refused_on_arrival() -> None:
    """A batch costs 1.01 ms here; a row behind 16 rows that wait behind a batch under way is done after three."""
    runtime = Doubling()
    runtime.free.clear()
    async with running_engine(runtime, clock=Clock()) as engine:
        asks = [asyncio.ensure_future(infer(engine, rows_of(1)))]
        await until(lambda: runtime.entered == 1)
        asks.append(asyncio.ensure_future(infer(engine, rows_of(*range(16)))))
        await until(lambda: engine.queued_rows() == 16)
        with pytest.raises(WaitTooLong, match=r"3\.18 ms, with a wait of 2\.17 ms, and its deadline allows 1\.8 ms"):
            await infer(engine, rows_of(2), deadline_ns=1_800_000)
        with pytest.raises(
            DeadlineUnreachable, match=r"take 1\.01 ms even on an idle device, and its deadline allows 1 ms"
        ):
            await infer(engine, rows_of(2), deadline_ns=1_000_000)
        asks.append(asyncio.ensure_future(infer(engine, rows_of(3), deadline_ns=10**10)))
        await until(lambda: engine.queued_rows() == 17)
        runtime.free.set()
        await asyncio.gather(*asks)


async def test_full_queue_refuses_with_a_hint() -> None:
    runtime = Doubling()
    runtime.free.clear()
    async with running_engine(runtime, queue=8) as engine:
        asks = [asyncio.ensure_future(infer(engine, rows_of(1)))]
        await until(lambda: runtime.entered == 1)
        asks += [asyncio.ensure_future(infer(engine, rows_of(i))) for i in range(8)]
        await until(lambda: engine.queued_rows() == 8)
        with pytest.raises(Overloaded) as refused:
            await infer(engine, rows_of(9))
        assert refused.value.retry_after_ms >= 20
        runtime.free.set()
        await asyncio.gather(*asks)


async def test_closing_fails_what_waits() -> None:
    runtime = Doubling()
    runtime.free.clear()
    async with running_engine(runtime) as engine:
        under_way = asyncio.ensure_future(infer(engine, rows_of(1)))
        await until(lambda: runtime.entered == 1)
        waiting = asyncio.ensure_future(infer(engine, rows_of(2)))
        await until(lambda: engine.queued_rows() == 1)
        engine.close()
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable):
            await infer(engine, rows_of(3))
        runtime.free.set()
        assert (await under_way)[0]["y"].item() == 2
        engine.device.attach(engine)  # the fixture closes it again


async def test_cancel_storm_loses_nothing() -> None:
    picks = random.Random(2)
    async with running_engine(Doubling(), lanes=2) as engine:

        async def ask(value: int) -> bool:
            task = asyncio.ensure_future(infer(engine, rows_of(value)))
            if value % 2:
                for _ in range(picks.randint(0, 3)):
                    await asyncio.sleep(0)
                task.cancel()
            try:
                outputs, _ = await task
            except asyncio.CancelledError:
                return False
            assert outputs["y"].item() == 2 * value
            return True

        answered = await asyncio.wait_for(asyncio.gather(*(ask(value) for value in range(900))), 30)
        assert sum(answered[0::2]) == 450
        assert engine.queued_rows() == 0


async def test_what_runs_does_not_wait() -> None:
    runtime = Doubling()
    runtime.free.clear()
    async with running_engine(runtime) as engine:
        asks = [asyncio.ensure_future(infer(engine, rows_of(0)))]
        await until(lambda: runtime.entered == 1)
        assert engine.queued() == 0
        asks += [asyncio.ensure_future(infer(engine, rows_of(*range(count)))) for count in (1, 40, 3)]
        await until(lambda: engine.queued_rows() == 44)
        assert engine.queued() == 3
        runtime.free.set()
        await asyncio.gather(*asks)
        assert engine.queued() == 0
