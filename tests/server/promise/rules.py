"""What callers, lanes, the watchdog and the end of the server may do."""

import random
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from resonnx_server import errors
from resonnx_server.scheduling.queue import QueueReservation

from .invariants import PRIORITIES, Invariants
from .model import MS, ByHand, Request

CALLERS = ("ann", "bob", "eve")
_LOOK_NS = 250 * MS
# One of those that there are, modulo their number.
_WHICH = st.integers(0, 99)


class Promise(Invariants):
    """The rules that are the same for all engines."""

    @initialize(data=st.data(), lanes=st.integers(1, 3))
    def begin(self, data: st.DataObject, lanes: int) -> None:
        self.device = ByHand(lanes)

        async def start() -> Any:
            return self.start(self.device, data.draw)

        self.engine = self.loop.run_until_complete(start())
        self.engine.on_event = self._on_event

    @rule(seed=st.integers(0, 2**32), count=st.sampled_from([1, 3, 6]), is_decoded=st.sampled_from([True, True, False]))
    def submit(self, seed: int, count: int, is_decoded: bool) -> None:
        """Requests of all callers come at once, some of which will be submitted later, when they are decoded."""
        rng = random.Random(seed)
        for _ in range(count):
            self._submit(rng, is_decoded)
        self.settle()

    def _submit(self, rng: random.Random, is_decoded: bool) -> None:
        caller, priority = rng.choice(CALLERS), rng.choice(PRIORITIES)
        allowed_ms = rng.choice([None, None, None, 3, 8, 20, 100])
        rows, bad, shape, work = self.draw_work(rng)
        deadline_ns = None if allowed_ms is None else self.device.ns + allowed_ms * MS
        request = Request(len(self.requests), caller, priority, rows, deadline_ns, bad, shape)
        try:
            reservation = self.engine.reserve(self.cost_of(work, rows), deadline_ns, priority, None, caller)
        except errors.Unavailable:
            assert self.is_closed
        except errors.DeadlineExceeded:
            assert deadline_ns is not None
        except errors.Overloaded as refused:
            self._refused(refused)
        else:
            assert not self.is_closed
            if is_decoded:
                request.may_run.set()
            self.requests.append(request)
            self.unended.append(request)
            request.task = self.loop.create_task(self._call(request, work, reservation))

    async def _call(self, request: Request, work: Any, reservation: QueueReservation) -> Any:
        with reservation:
            await request.may_run.wait()
            self.turns += 1
            request.turn = self.turns
            return await self.ask(request, work, reservation)

    def _refused(self, error: errors.Overloaded) -> None:
        assert 20 <= error.retry_after_ms <= 2000

    @precondition(lambda self: any(not each.may_run.is_set() for each in self.unended))
    @rule(which=_WHICH)
    def decoded(self, which: int) -> None:
        waiting = [each for each in self.unended if not each.may_run.is_set()]
        waiting[which % len(waiting)].may_run.set()
        self.settle()

    @precondition(lambda self: self.unended)
    @rule(which=_WHICH)
    def cancel(self, which: int) -> None:
        request = self.unended[which % len(self.unended)]
        request.was_cancelled = True
        assert request.task is not None
        request.task.cancel()
        self.settle()

    @rule(ms=st.sampled_from([1, 2, 5, 30]))
    def tick(self, ms: int) -> None:
        self.device.ns += ms * MS
        self.settle()

    @precondition(lambda self: self.device.under_way())
    @rule(which=_WHICH, slowness=st.sampled_from([0.5, 1.0, 1.0, 1.0, 4.0]))
    def finish(self, which: int, slowness: float) -> None:
        under_way = self.device.under_way()
        self.finish_job(under_way[which % len(under_way)], slowness)

    @precondition(lambda self: self.device.under_way())
    @rule(looks=st.integers(5, 12))
    def hang(self, looks: int) -> None:
        """All jobs under way go on: after a second they are interrupted, and after another they are given up."""
        for _ in range(looks):
            self.device.ns += _LOOK_NS
            before = self.device.under_way()
            self.device.look()
            for job in before:
                if job not in self.device.under_way():
                    self.mark_hung(job)
            self.settle()

    @precondition(lambda self: self.device.given_up)
    @rule(which=_WHICH)
    def come_back(self, which: int) -> None:
        """A job that was given up ends after all, which nobody notices."""
        self.device.end(*self.device.given_up[which % len(self.device.given_up)])
        self.settle()

    @precondition(lambda self: self.replacing)
    @rule(fails=st.sampled_from([False] * 7 + [True]))
    def swap(self, fails: bool) -> None:
        """A session is opened again, or cannot be, which ends the model."""
        self.can_open = not fails
        self.replacing.pop(0)()
        self.settle()

    @precondition(lambda self: len(self.requests) > 20 and not self.is_closed)
    @rule(sure=st.sampled_from([False, False, True]))
    def close(self, sure: bool) -> None:
        if sure:
            self.close_engine()
            self.settle()

    def teardown(self) -> None:
        if self.engine is not None:
            try:
                self._drain()
            finally:
                self.patch.undo()
                self.loop.close()

    def _drain(self) -> None:
        """End as the server does: jobs and replacements end, the engine is closed, and nothing is left (I9)."""
        for request in self.unended:
            request.may_run.set()
        self.settle()
        for _ in range(2_000):
            if self.replacing:
                self.replacing.pop(0)()
                self.settle()
            elif under_way := self.device.under_way():
                self.finish_job(under_way[0])
            elif self.unended:
                self.device.ns += MS
                self.settle()
            else:
                break
        assert not self.unended, "I1"
        self.nothing_is_lost()
        assert self.engine.queued() == 0
        assert sum(self.outcomes.values()) == len(self.requests), "I11"
        if not self.is_closed:
            # All room is free again, for any caller.
            self.check_room()
            self.close_engine()
        for job, runs in list(self.device.given_up):
            self.device.end(job, runs)
        self.turn()
        assert not self.raised
        assert self.device.abandoned() == 0
