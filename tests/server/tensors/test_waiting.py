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

from ..asking import infer
from ..waiting import Clock, until
from .doubling import Doubling, rows_of, running_engine


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
