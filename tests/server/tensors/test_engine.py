"""The engine on its real threads: answers belong to their requests, whatever is cancelled, late or failing nearby."""

import asyncio
import gc
import logging
import random
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import numpy as np
import pytest
from resonnx_server.errors import (
    DeadlineExceeded,
    DeadlineUnreachable,
    InferenceFailed,
    Overloaded,
    Unavailable,
    WaitTooLong,
)
from resonnx_server.observe.metrics import Metrics
from resonnx_server.observe.stats import ModelStats
from resonnx_server.scheduling.deadline_admission import Objective
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool, Tensors
from resonnx_server.tensors.engine import TensorEngine

from ..asking import infer
from ..waiting import Clock, until

COSTS = {size: 1e6 + 1e4 * size for size in sizes_up_to(16)}


class Runtime:
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
async def _engine(
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
        if isinstance(runtime, Runtime):
            runtime.free.set()
        engine.close()
        device.close()


def _rows(*values: int) -> Tensors:
    return {"x": np.array(values, np.int64).reshape(-1, 1)}


@pytest.mark.parametrize("rows", [1, 20])
async def test_an_answered_request_is_kept_for_no_garbage_collection(rows: int) -> None:
    async with _engine(Runtime()) as engine:
        gc.collect()
        gc.disable()
        try:
            inputs = _rows(*range(rows))
            outputs, _ = await infer(engine, inputs)
            kept = [weakref.ref(inputs["x"]), weakref.ref(outputs["y"])]
            del inputs, outputs
            await until(lambda: not any(each() is not None for each in kept))
        finally:
            gc.enable()


@pytest.mark.parametrize("lanes", [1, 2])
async def test_each_caller_gets_its_own_rows(lanes: int) -> None:
    async with _engine(Runtime(), lanes, queue=10_000) as engine:

        async def ask(values: list[int]) -> None:
            outputs, timing = await infer(engine, _rows(*values))
            assert outputs["y"].ravel().tolist() == [2 * value for value in values]
            assert 1 <= timing.batch_rows <= 16

        picks = random.Random(1)
        await asyncio.gather(*(ask([picks.randrange(10**6) for _ in range(picks.randint(1, 40))]) for _ in range(300)))
        await asyncio.sleep(0)
        assert engine.queued_rows() == 0


async def test_the_phases_of_a_request_fit_into_its_time() -> None:
    async with _engine(Runtime()) as engine:
        asked = time.monotonic_ns()
        _, timing = await infer(engine, _rows(1, 2))
        taken = time.monotonic_ns() - asked
    *phases, rows = timing
    assert rows == 2
    assert min(phases) >= 0
    assert sum(phases) <= taken


async def test_a_session_that_was_slow_an_hour_ago_is_used_again_at_once() -> None:
    clock, many, few = Clock(), Runtime(), Runtime()
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
        await infer(engine, _rows(1), deadline_ns=10**9)
        assert (many.entered, few.entered) == (0, 1)
        # An answer is told before its lane is free.
        await until(lambda: device.idle_lanes() == 2)
        clock.ns += 3600 * 10**9
        await infer(engine, _rows(1), deadline_ns=clock.ns + 10**9)
        assert (many.entered, few.entered) == (1, 1)
    finally:
        engine.close()
        device.close()


async def test_waiting_requests_share_a_batch_of_a_warmed_size() -> None:
    runtime = Runtime()
    runtime.free.clear()
    async with _engine(runtime) as engine:
        asks = [asyncio.ensure_future(infer(engine, _rows(0)))]
        await until(lambda: runtime.entered == 1)
        asks += [asyncio.ensure_future(infer(engine, _rows(i))) for i in range(12)]
        await until(lambda: engine.queued_rows() == 12)
        runtime.free.set()
        timings = [timing for _, timing in await asyncio.gather(*asks)]
    assert [timing.batch_rows for timing in timings] == [1] + [12] * 12
    assert set(runtime.sizes) <= set(sizes_up_to(16))


async def test_the_last_lane_is_kept_for_those_who_cannot_wait() -> None:
    """A model whose batches take 20 ms leaves one of two lanes to a model with an objective of 10 ms, however late."""
    slow, quick = Runtime(), Runtime()
    slow.free.clear()
    device = Device("test", 2)
    stats = Metrics().model("m", 1)
    costly, cheap = (SessionPool(runtime, LatencyTable({1: ns})) for runtime, ns in ((slow, 2e7), (quick, 1e6)))
    start = device.clock()
    heavy = TensorEngine(InstanceGroup(costly, costly, 2), device, stats, max_queue_rows=100)
    light = TensorEngine(InstanceGroup(cheap, cheap, 2), device, stats, max_queue_rows=100, objective=Objective(10**7))
    try:
        await infer(light, _rows(0))
        asks = [asyncio.ensure_future(infer(heavy, _rows(i))) for i in range(3)]
        await until(lambda: slow.entered == 1)
        # The job under way should have ended by now, and has not.
        await until(lambda: device.clock() - start > 3e7)
        asks.append(asyncio.ensure_future(infer(light, _rows(3))))
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
    many, few = Runtime(), Runtime()
    many.free.clear()
    device = Device("test", 2)
    alone = SessionPool(many, LatencyTable({1: 1e9, 2: 2.5e9}), has_all_cores=True)
    shared = SessionPool(few, LatencyTable({1: 2e9, 2: 2.6e9}))
    engine = TensorEngine(InstanceGroup(alone, shared, 2), device, Metrics().model("m", 1), max_queue_rows=100)
    try:
        asks = [asyncio.ensure_future(infer(engine, _rows(*range(rows))))]
        await until(lambda: many.entered == 1)
        asks.append(asyncio.ensure_future(infer(engine, _rows(1, 2))))
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
    runtime = Runtime()
    runtime.free.clear()
    device = Device("test")
    pool = SessionPool(runtime, LatencyTable({size: start_ns + 4e7 * size for size in sizes_up_to(16)}))
    engine = TensorEngine(InstanceGroup(pool, pool, 4), device, Metrics().model("m", 1), max_queue_rows=1000)
    try:
        asks = [asyncio.ensure_future(infer(engine, _rows(0)))]
        await until(lambda: runtime.entered == 1)
        asks += [asyncio.ensure_future(infer(engine, _rows(i))) for i in range(4)]
        await until(lambda: engine.queued_rows() == 4)
        runtime.free.set()
        await asyncio.gather(*asks)
    finally:
        engine.close()
        device.close()
    assert runtime.sizes[1:] == sizes


async def test_poisoned_member_fails_alone() -> None:
    runtime = Runtime()
    runtime.free.clear()
    async with _engine(runtime) as engine:
        first = asyncio.ensure_future(infer(engine, _rows(0)))
        await until(lambda: runtime.entered == 1)
        asks = [asyncio.ensure_future(infer(engine, _rows(value))) for value in (1, 2, -1, 4)]
        await until(lambda: engine.queued_rows() == 4)
        runtime.free.set()
        await first
        results = await asyncio.gather(*asks, return_exceptions=True)
    assert [r[0]["y"].item() for i, r in enumerate(results) if i != 2] == [2, 4, 8]
    assert runtime.sizes == [1, 4, 2, 2, 1, 1], "halves, as far as needed"
    assert isinstance(results[2], InferenceFailed)
    assert "poisoned" not in results[2].message


@pytest.mark.parametrize("lanes", [1, 2])
async def test_rows_of_large_requests_share_batches_and_come_back_in_order(lanes: int) -> None:
    runtime = Runtime()
    runtime.free.clear()
    async with _engine(runtime, lanes) as engine:
        asks = [asyncio.ensure_future(infer(engine, _rows(*range(100 * i, 100 * i + 25)))) for i in range(4)]
        await until(lambda: runtime.entered == lanes)
        runtime.free.set()
        answers = await asyncio.gather(*asks)
    for i, (outputs, timing) in enumerate(answers):
        assert outputs["y"].ravel().tolist() == [2 * value for value in range(100 * i, 100 * i + 25)]
        assert timing.queue_ns > 0
    assert sum(runtime.sizes) <= 104, "100 rows, and little padding"


@pytest.mark.parametrize("rows", [1, 30])
@pytest.mark.parametrize("error", [RuntimeError, InferenceFailed])
@pytest.mark.parametrize("has_cause", [False, True])
async def test_failed_requests_are_forgotten_at_once(
    rows: int, error: type[Exception], has_cause: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting for garbage to be collected, which is rare in a server."""

    class Inputs(np.ndarray):
        """May be watched."""

    def fails(feeds: Mapping[str, np.ndarray]) -> None:
        raise ValueError("it holds everybody's inputs by its frames")

    def run(feeds: Mapping[str, np.ndarray]) -> Tensors:
        try:
            fails(feeds)
        except ValueError as cause:
            raise error("so does this") from (cause if has_cause else None)
        return {}

    watched: list[weakref.ref[Inputs]] = []
    told = []
    # What is logged is kept, frames and all, by the test runner.
    monkeypatch.setattr(logging.getLogger("resonnx_server.tensors.jobs"), "disabled", True)
    gc.disable()
    try:
        async with _engine(run) as engine:
            for _ in range(5):
                inputs = np.zeros((rows, 1), np.int64).view(Inputs)
                watched.append(weakref.ref(inputs))
                with pytest.raises(InferenceFailed) as failed:
                    await infer(engine, {"x": inputs})
                if has_cause:
                    # Whoever keeps it, to tell it later, keeps nothing of where it came from.
                    told.append(failed.value.with_traceback(None))
                del inputs, failed
            await until(lambda: not any(each() is not None for each in watched))
    finally:
        gc.enable()


async def test_what_is_no_number_fails_its_request_alone_and_only_where_numbers_are_promised() -> None:
    """Of requests that share a batch, that run by themselves after it failed, and that several batches serve."""

    class Logs(Runtime):
        def __call__(self, feeds: Mapping[str, np.ndarray]) -> Tensors:
            doubled = super().__call__(feeds)["y"].astype(np.float32)
            doubled[doubled == 0] = np.nan
            doubled[doubled == 2] = -np.inf
            return {"y": doubled, "z": np.zeros((len(doubled), 2, 2), np.float32)}

    requests = [_rows(5), _rows(0), _rows(2, 3), _rows(4, 1), _rows(*range(2, 32), 0), _rows(*range(7, 47)), _rows(-1)]
    for finite in (True, False):
        runtime = Logs()
        runtime.free.clear()
        async with _engine(runtime, finite=finite) as engine:
            asks = [asyncio.ensure_future(infer(engine, _rows(9)))]
            await until(lambda runtime=runtime: runtime.entered == 1)
            asks += [asyncio.ensure_future(infer(engine, rows)) for rows in requests]
            await until(lambda engine=engine: engine.queued_rows() == sum(len(rows["x"]) for rows in requests))
            runtime.free.set()
            answers = await asyncio.gather(*asks, return_exceptions=True)
        failed = [i for i, answer in enumerate(answers[1:]) if isinstance(answer, InferenceFailed)]
        assert failed == ([1, 3, 4, 6] if finite else [6])
        for rows, answer in zip(requests, answers[1:], strict=True):
            if not isinstance(answer, BaseException):
                wanted = rows["x"] * np.float32(2)
                wanted[wanted == 0] = np.nan
                wanted[wanted == 2] = -np.inf
                assert np.array_equal(answer[0]["y"], wanted, equal_nan=True)


async def test_an_answer_of_other_rows_than_asked_for_is_nobodys() -> None:
    class Short(Runtime):
        def __call__(self, feeds: Mapping[str, np.ndarray]) -> Tensors:
            rows = super().__call__(feeds)["y"]
            return {"y": rows[: len(rows) - (feeds["x"] == 3).any()]}

    runtime = Short()
    runtime.free.clear()
    async with _engine(runtime) as engine:
        asks = [asyncio.ensure_future(infer(engine, _rows(0)))]
        await until(lambda: runtime.entered == 1)
        asks += [asyncio.ensure_future(infer(engine, _rows(value))) for value in (1, 2, 3, 4)]
        await until(lambda: engine.queued_rows() == 4)
        runtime.free.set()
        answers = await asyncio.gather(*asks, return_exceptions=True)
    assert isinstance(answers[3], InferenceFailed)
    assert [answer[0]["y"].item() for i, answer in enumerate(answers) if i != 3] == [0, 2, 4, 8]


async def test_answers_are_given_though_they_cannot_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _engine(Runtime()) as engine:
        monkeypatch.setattr(ModelStats, "batch_done", lambda *_: 1 / 0)
        assert (await infer(engine, _rows(4)))[0]["y"].item() == 8


async def test_outputs_that_do_not_fit_together_fail_their_request_alone() -> None:
    class Ragged(Runtime):
        def __call__(self, feeds: Mapping[str, np.ndarray]) -> Tensors:
            rows = super().__call__(feeds)["y"]
            return {"y": rows.repeat(len(self.sizes), axis=1)}

    runtime = Ragged()
    runtime.free.clear()
    async with _engine(runtime) as engine:
        large = asyncio.ensure_future(infer(engine, _rows(*range(20))))
        await until(lambda: runtime.entered == 1)
        small = asyncio.ensure_future(infer(engine, _rows(7)))
        await until(lambda: engine.queued_rows() == 5)
        runtime.free.set()
        with pytest.raises(InferenceFailed, match="do not fit"):
            await large
        assert (await small)[0]["y"].tolist() == [[14, 14]]


async def test_one_bad_row_fails_its_whole_request_and_nobody_else() -> None:
    runtime = Runtime()
    runtime.free.clear()
    async with _engine(runtime) as engine:
        bad = asyncio.ensure_future(infer(engine, _rows(-1, *range(60))))
        await until(lambda: runtime.entered == 1)
        good = asyncio.ensure_future(infer(engine, _rows(*range(30))))
        await until(lambda: engine.queued_rows() > 30)
        runtime.free.set()
        with pytest.raises(InferenceFailed):
            await bad
        assert (await good)[0]["y"].ravel().tolist() == [2 * value for value in range(30)]
        assert engine.queued_rows() == 0
    assert sum(runtime.sizes) < 16 + 91, "what the others would have answered was wanted by nobody"


async def test_a_busy_model_with_low_priorities_waiting_starves_no_other() -> None:
    device = Device("test")
    asked: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    class Busy(Runtime):
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
        for run in (runtime, Runtime())
    )

    async def ask_on_and_on() -> None:
        while not asked.done():
            await infer(busy, _rows(1), priority=1)

    try:
        first = asyncio.ensure_future(infer(busy, _rows(0)))
        await until(lambda: runtime.entered == 1)
        waits_since = device.clock()
        unimportant = asyncio.ensure_future(infer(busy, _rows(2), priority=8))
        await until(lambda: busy.queued_rows() == 1 and device.clock() - waits_since > 1_100_000_000)
        callers = [asyncio.ensure_future(ask_on_and_on()) for _ in range(4)]
        await until(lambda: busy.queued_rows() == 5)
        runtime.free.set()
        async with asyncio.timeout(10):
            asked.set_result(await infer(other, _rows(3)))
            await asyncio.gather(first, unimportant, *callers)
    finally:
        if not asked.done():
            asked.cancel()
        runtime.free.set()
        busy.close()
        other.close()
        device.close()


async def test_cancelled_and_expired_never_reach_the_device() -> None:
    runtime = Runtime()
    runtime.free.clear()
    clock = Clock()
    async with _engine(runtime, clock=clock) as engine:
        first = asyncio.ensure_future(infer(engine, _rows(1)))
        await until(lambda: runtime.entered == 1)
        gone = asyncio.ensure_future(infer(engine, _rows(2, 3)))
        late = asyncio.ensure_future(infer(engine, _rows(4), deadline_ns=50_000_000))
        kept = asyncio.ensure_future(infer(engine, _rows(5)))
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
    runtime = Runtime()
    runtime.free.clear()
    clock = Clock()
    async with _engine(runtime, clock=clock) as engine:
        first = asyncio.ensure_future(infer(engine, _rows(1)))
        await until(lambda: runtime.entered == 1)
        ahead = asyncio.ensure_future(infer(engine, _rows(2), deadline_ns=9_000_000))
        passed = asyncio.ensure_future(infer(engine, _rows(3), deadline_ns=4_000_000))
        await until(lambda: engine.queued_rows() == 2)
        clock.ns = 8_500_000
        runtime.free.set()
        with pytest.raises(WaitTooLong, match=r"would take 1\.\d+ ms and its deadline allows 0\.5 ms"):
            await ahead
        with pytest.raises(DeadlineExceeded, match="passed"):
            await passed
        await first
    assert runtime.sizes == [1]


async def test_a_model_alone_is_as_quick_as_its_quickest_session() -> None:
    """Who has time enough for that, and not for the session that shares the device, is let in and answered."""
    runtime = Runtime()
    alone, shared = (
        SessionPool(runtime, LatencyTable({1: 1e6}), has_all_cores=True),
        SessionPool(runtime, LatencyTable({1: 5e6})),
    )
    device = Device("test", 2, Clock())
    engine = TensorEngine(InstanceGroup(alone, shared, 2), device, Metrics().model("m", 1), max_queue_rows=100)
    try:
        assert (await infer(engine, _rows(4), deadline_ns=2_000_000))[0]["y"].item() == 8
        with pytest.raises(DeadlineUnreachable):
            await infer(engine, _rows(4), deadline_ns=900_000)
    finally:
        engine.close()
        device.close()


async def test_a_deadline_that_cannot_be_met_is_refused_on_arrival() -> None:
    """A batch costs 1.01 ms here; a row behind 16 rows that wait behind a batch under way is done after three."""
    runtime = Runtime()
    runtime.free.clear()
    async with _engine(runtime, clock=Clock()) as engine:
        asks = [asyncio.ensure_future(infer(engine, _rows(1)))]
        await until(lambda: runtime.entered == 1)
        asks.append(asyncio.ensure_future(infer(engine, _rows(*range(16)))))
        await until(lambda: engine.queued_rows() == 16)
        with pytest.raises(WaitTooLong, match=r"3\.18 ms, with a wait of 2\.17 ms, and its deadline allows 1\.8 ms"):
            await infer(engine, _rows(2), deadline_ns=1_800_000)
        with pytest.raises(
            DeadlineUnreachable, match=r"take 1\.01 ms even on an idle device, and its deadline allows 1 ms"
        ):
            await infer(engine, _rows(2), deadline_ns=1_000_000)
        asks.append(asyncio.ensure_future(infer(engine, _rows(3), deadline_ns=10**10)))
        await until(lambda: engine.queued_rows() == 17)
        runtime.free.set()
        await asyncio.gather(*asks)


async def test_full_queue_refuses_with_a_hint() -> None:
    runtime = Runtime()
    runtime.free.clear()
    async with _engine(runtime, queue=8) as engine:
        asks = [asyncio.ensure_future(infer(engine, _rows(1)))]
        await until(lambda: runtime.entered == 1)
        asks += [asyncio.ensure_future(infer(engine, _rows(i))) for i in range(8)]
        await until(lambda: engine.queued_rows() == 8)
        with pytest.raises(Overloaded) as refused:
            await infer(engine, _rows(9))
        assert refused.value.retry_after_ms >= 20
        runtime.free.set()
        await asyncio.gather(*asks)


async def test_closing_fails_what_waits() -> None:
    runtime = Runtime()
    runtime.free.clear()
    async with _engine(runtime) as engine:
        under_way = asyncio.ensure_future(infer(engine, _rows(1)))
        await until(lambda: runtime.entered == 1)
        waiting = asyncio.ensure_future(infer(engine, _rows(2)))
        await until(lambda: engine.queued_rows() == 1)
        engine.close()
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable):
            await infer(engine, _rows(3))
        runtime.free.set()
        assert (await under_way)[0]["y"].item() == 2
        engine.device.attach(engine)  # the fixture closes it again


async def test_cancel_storm_loses_nothing() -> None:
    picks = random.Random(2)
    async with _engine(Runtime(), lanes=2) as engine:

        async def ask(value: int) -> bool:
            task = asyncio.ensure_future(infer(engine, _rows(value)))
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
    runtime = Runtime()
    runtime.free.clear()
    async with _engine(runtime) as engine:
        asks = [asyncio.ensure_future(infer(engine, _rows(0)))]
        await until(lambda: runtime.entered == 1)
        assert engine.queued() == 0
        asks += [asyncio.ensure_future(infer(engine, _rows(*range(count)))) for count in (1, 40, 3)]
        await until(lambda: engine.queued_rows() == 44)
        assert engine.queued() == 3
        runtime.free.set()
        await asyncio.gather(*asks)
        assert engine.queued() == 0


async def test_who_is_answered_finds_the_lane_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a lane still does after its answer is told must not make the next request look as if it had to wait."""
    idle = []
    async with _engine(Runtime()) as engine:
        loop = asyncio.get_running_loop()
        post = loop.call_soon_threadsafe

        def told(callback: Callable[..., object], *arguments: object) -> None:
            if threading.current_thread() is not threading.main_thread():
                idle.append(engine.device.idle_lanes() == engine.device.lanes)
            post(callback, *arguments)

        monkeypatch.setattr(loop, "call_soon_threadsafe", told)
        await infer(engine, {"x": np.ones((1, 1), np.float32)})
    assert idle == [True]
