"""What is promised of captions, as a state machine; see promise/."""

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from resonnx_server.captioning.encoding import EncodeJob
from resonnx_server.captioning.engine import CaptionEngine
from resonnx_server.captioning.request import CaptionCost, CaptionTask, CaptionWork
from resonnx_server.captioning.stepping import StepJob
from resonnx_server.errors import InferenceHung
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.graphs import Step
from resonnx_server.runtime.interruption import runs_of_this_thread
from resonnx_server.scheduling.device import Job
from resonnx_server.scheduling.queue import QueueReservation

from ...conftest import examples
from ..hand import any_options, caption_engine
from ..language import Language, alone, ids, picture, spec
from ..promise.model import RUN_TIMEOUT_S, ByHand, Request
from ..promise.rules import Promise

# Pictures whose encoding, or whose every step, fails.
_BAD = {"encoder": 65_535, "step": 65_534}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What fails here is logged with its frames, thousands of times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Graphs(Language):
    """The language, which takes its time, can be interrupted, and fails on some pictures."""

    def __init__(self, spend: Callable[[float], None]) -> None:
        super().__init__()
        self._spend = spend

    def encode(self, images: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], None]:
        encoded = super().encode(images)
        self._run(1e6 * len(images), encoded[1][0][:, 0], "encoder")
        return encoded

    def step(self, tokens: np.ndarray, state: Sequence[np.ndarray], features: Sequence[np.ndarray], **kw: bool) -> Step:
        self._run(1e6 + 1e4 * len(tokens), features[0][:, 0], "step")
        return super().step(tokens, state, features, **kw)

    def _run(self, cost_ns: float, pictures: np.ndarray, where: str) -> None:
        self._spend(cost_ns)
        runs = runs_of_this_thread()
        assert runs is not None
        if runs.is_over:
            raise InferenceHung
        if (pictures == _BAD[where]).any():
            raise RuntimeError("a poisoned picture")


class Captions(Promise):
    """Each picture has a caption of its own."""

    def start(self, device: ByHand, draw: Callable[[Any], Any]) -> CaptionEngine:
        self.max_queue_rows = draw(st.sampled_from([4, 12, 100]))
        self.slots = draw(st.sampled_from([10, 16, 40]))
        self._by_options: dict[int, Request] = {}
        self._asked: list[CaptionWork] = []
        self._spec, self._language = spec(), Language()
        graphs, instances = Graphs(self.spend), draw(st.integers(1, device.lanes))
        engine = caption_engine(
            graphs,
            device,
            self.max_queue_rows,
            self.slots,
            instances,
            run_timeout_s=RUN_TIMEOUT_S,
        )
        for group, run in ((engine.encoders, graphs.encode), (engine.decoders, graphs.step)):
            for pool in (group.latency_session, group.throughput_session):
                pool.open_again = self.open_again(run)
        return engine

    def draw_work(self, rng: random.Random) -> tuple[int, str, Any, CaptionWork]:
        bad = rng.choice([""] * 8 + list(_BAD))
        number = _BAD[bad] if bad else len(self.requests)
        return 1, bad, None, CaptionWork(picture(number), any_options(rng), None)

    def cost_of(self, work: CaptionWork | None, rows: int) -> CaptionCost:
        return CaptionCost(rows, DecodeOptions(max_tokens=9) if work is None else work.options)

    async def ask(self, request: Request, work: CaptionWork, reservation: QueueReservation) -> tuple[CaptionWork, Any]:
        # Kept, as the ids of options that are gone come again.
        self._asked.append(work)
        self._by_options[id(work.options)] = request
        return work, await self.engine.submit(work, reservation)

    def _of(self, task: CaptionTask) -> Request:
        return self._by_options[id(task.options)]

    def members(self, job: Job) -> Iterable[tuple[Request, int]]:
        if isinstance(job, EncodeJob):
            return [(self._of(task), 1) for task in job.tasks]
        assert isinstance(job, StepJob)
        return [(self._of(task), 0) for task in (*job.slots.owners, *(encoded.task for encoded in job.joining))]

    def check_batch(self, job: Job, members: list[tuple[Request, int]]) -> None:
        if isinstance(job, EncodeJob):
            assert len(members) <= self.engine.encoders.table.largest, "I5"
        assert sum(isinstance(each, StepJob) for each in self.device.under_way()) <= 1, "it owns the slots"
        assert len(self.engine.slots) <= self.slots, "I5"

    def check_answer(self, request: Request, answer: tuple[CaptionWork, Any]) -> None:
        work, captioned = answer
        assert request.deadline_ns is None or request.run_ns < request.deadline_ns, "I2"
        expected = ids(alone(self._language, work.image, self._spec, work.options))
        assert [[token.id for token in sequence.tokens] for sequence, _ in captioned.ranked] == expected, "I3"

    def check_room(self) -> None:
        # Captions that were cancelled leave their slots with the next step.
        assert len(self.engine.slots) == self.engine.schedule.active.rows == 0, "I9"
        super().check_room()


def test_promises() -> None:
    run_state_machine_as_test(Captions, settings=examples(100, stateful_step_count=25))
