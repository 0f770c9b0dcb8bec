"""What is promised of tensor requests, as a state machine; see promise/."""

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from resonnx_server.errors import InferenceHung
from resonnx_server.observe.metrics import Metrics
from resonnx_server.runtime.interruption import runs_of_this_thread
from resonnx_server.scheduling.device import Job
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.queue import QueueReservation
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool, Tensors
from resonnx_server.tensors.engine import TensorCost, TensorEngine
from resonnx_server.tensors.jobs import TensorJob

from ...conftest import examples
from ..promise.model import MS, RUN_TIMEOUT_S, ByHand, Request
from ..promise.rules import Promise

_BAD = {"raises": -1, "not a number": -2}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What fails here is logged with its frames, thousands of times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Tensor(Promise):
    """Each row is a number of its own, which the model doubles."""

    def start(self, device: ByHand, draw: Callable[[Any], Any]) -> TensorEngine:
        self.max_queue_rows = draw(st.sampled_from([8, 20, 200]))
        self.max_delay_ns = draw(st.sampled_from([0, 0, 4])) * MS
        self.at_once = draw(st.integers(1, device.lanes))
        sizes = draw(st.sampled_from([(1, 2, 4, 8), (1, 8), (4,)]))
        self._next_value = 0
        self._by_inputs: dict[int, Request] = {}
        self._asked: list[Tensors] = []
        costs = {size: (1 + 0.1 * size) * MS for size in sizes}
        self.table = LatencyTable(costs, clock=device.clock)
        pool = SessionPool(self._run, self.table)
        pool.open_again = self.open_again(self._run)
        alone = pool
        if self.at_once > 1 and draw(st.booleans()):
            table = LatencyTable({size: 0.7 * ns for size, ns in costs.items()}, clock=device.clock)
            alone = SessionPool(self._run, table, has_all_cores=True, open_again=self.open_again(self._run))
        return TensorEngine(
            InstanceGroup(alone, pool, self.at_once),
            device,
            Metrics().model("m", 1),
            max_queue_rows=self.max_queue_rows,
            max_queue_delay_us=self.max_delay_ns // 1000,
            finite=True,
            run_timeout_s=RUN_TIMEOUT_S,
        )

    def _run(self, feeds: Mapping[str, np.ndarray]) -> Tensors:
        values = feeds["x"]
        self.spend(self.table.cost_ns(len(values)))
        runs = runs_of_this_thread()
        assert runs is not None
        if runs.is_over:
            raise InferenceHung
        if (values == _BAD["raises"]).any():
            raise RuntimeError("a poisoned row")
        outputs = values * 2
        outputs[values == _BAD["not a number"]] = np.nan
        return {"y": outputs}

    def draw_work(self, rng: random.Random) -> tuple[int, str, Any, Tensors]:
        rows, width = rng.randrange(1, 12), rng.choice([1, 1, 2])
        values = np.arange(self._next_value, self._next_value + rows, dtype=np.float64)
        self._next_value += rows
        bad = rng.choice([""] * 8 + list(_BAD))
        if bad:
            values[rng.randrange(rows)] = _BAD[bad]
        return rows, bad, ((width,),), {"x": np.repeat(values[:, np.newaxis], width, axis=1)}

    def cost_of(self, work: Any, rows: int) -> TensorCost:
        return TensorCost(rows)

    async def ask(self, request: Request, work: Tensors, reservation: QueueReservation) -> tuple[Tensors, Tensors]:
        # Kept, as the ids of dicts that are gone come again.
        self._asked.append(work)
        self._by_inputs[id(work)] = request
        outputs, _ = await self.engine.submit(work, reservation)
        return work, outputs

    def members(self, job: Job) -> Iterable[tuple[Request, int]]:
        assert isinstance(job, TensorJob)
        return [(self._by_inputs[id(entry.payload.inputs)], entry.rows) for entry in job.entries]

    def check_batch(self, job: Job, members: list[tuple[Request, int]]) -> None:
        assert isinstance(job, TensorJob)
        assert sum(rows for _, rows in members) <= self.table.largest, "I5"
        assert len({request.shape for request, _ in members}) == 1, "I5"
        assert len(self.device.under_way()) <= self.at_once

    def check_beside(self) -> None:
        jobs = self.device.under_way()
        if len(jobs) < self.at_once and not any(job.has_all_cores for job in jobs):
            assert self.engine.queued_rows() < self.table.largest, "I6"

    def check_answer(self, request: Request, answer: tuple[Tensors, Tensors]) -> None:
        asked, outputs = answer
        assert np.array_equal(outputs["y"], asked["x"] * 2), "I3"


def test_promises() -> None:
    run_state_machine_as_test(Tensor, settings=examples(100, stateful_step_count=30))
