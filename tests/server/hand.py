"""Engines whose device is the test: jobs begin and end when it says so, under a clock that stands still in between."""

import random
from collections.abc import Callable

import numpy as np
from resonnx_proto.v1.manifest_pb2 import CaptionerSpec
from resonnx_server.captioning.engine import CaptionEngine
from resonnx_server.captioning.slots import host_slots
from resonnx_server.observe.metrics import Metrics
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.scheduling.device import Device, Job, Workload
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to
from resonnx_server.scheduling.session_pool import AnyInstanceGroup, InstanceGroup, SessionPool

from .language import Language, spec


class Hand(Device):
    """A device whose lanes are the test, with a clock that stands still in between. Jobs end in any order."""

    def __init__(self, lanes: int, rng: random.Random) -> None:
        super().__init__("hand", 0, self._now)
        self.lanes = lanes
        self.ns = 0
        self.most_at_once = 0
        self._jobs: list[Job] = []
        self._rng = rng

    def _now(self) -> int:
        return self.ns

    def idle_lanes(self) -> int:
        return self.lanes - len(self._jobs)

    def begin(self, engine: Workload) -> list[Job]:
        """Let idle lanes look for work; return the jobs that they took."""
        begun: list[Job] = []
        while self.idle_lanes():
            with self.lock:
                at = engine.ready_at_ns()
                job = engine.take(self.ns, None) if at is not None and at <= self.ns else None
            if job is None:
                break
            self._jobs.append(job)
            begun.append(job)
        self.most_at_once = max(self.most_at_once, len(self._jobs))
        return begun

    def end(self, job: Job) -> None:
        """Let a job end, after its cost."""
        job.run()
        with self.lock:
            job.finish()
        self._jobs.remove(job)
        self.ns += int(job.cost_ns)

    def turn(self, engine: Workload) -> None:
        """Let idle lanes begin, and one job end, if there is one."""
        self.begin(engine)
        if self._jobs:
            self.end(self._rng.choice(self._jobs))
        else:
            self.ns += 1_000_000


def caption_engine(
    graphs: Language,
    device: Device,
    queue: int = 5000,
    slots: int = 32,
    instances: int = 1,
    of: CaptionerSpec | None = None,
    encode_ms: Callable[[int], float] = float,
    step_ms: Callable[[int], float] = lambda rows: 1 + rows / 100,
    **settings: object,
) -> CaptionEngine:
    """An engine of the language: a picture takes 1 ms, a step about 1 ms."""
    encode_costs = {size: 1e6 * encode_ms(size) for size in sizes_up_to(16)}
    step_costs = {size: 1e6 * step_ms(size) for size in sizes_up_to(slots)}

    def group(run: Callable[..., object], costs: dict[int, float], instances: int) -> AnyInstanceGroup:
        if instances == 1:
            return InstanceGroup.single(SessionPool(run, LatencyTable(costs)))
        alone = LatencyTable({size: ns * 0.7 for size, ns in costs.items()})
        return InstanceGroup(
            SessionPool(run, alone, has_all_cores=True), SessionPool(run, LatencyTable(costs)), instances
        )

    return CaptionEngine(
        of or spec(),
        group(graphs.encode, encode_costs, instances),
        group(graphs.step, step_costs, instances),
        host_slots(slots, [np.zeros((1, 1), np.int64)], [np.zeros((1, 1), np.int64)]),
        device,
        Metrics().model("m", 1),
        max_queue_rows=queue,
        **settings,  # type: ignore[arg-type]
    )


def any_options(rng: random.Random) -> DecodeOptions:
    """A request as some caller might make it."""
    most = rng.randrange(1, 25)
    shared = {"max_tokens": most, "min_tokens": rng.randrange(most + 1), "attention": rng.random() < 0.2}
    if rng.random() < 0.2:
        shared["forbidden"] = frozenset(rng.sample(range(2, 40), rng.randrange(20)))
    kind = rng.random()
    if kind < 0.4:
        return DecodeOptions(**shared)
    if kind < 0.6:
        top_k = rng.choice([0, 5, 30])
        return DecodeOptions(**shared, temperature=rng.random() + 0.1, top_k=top_k, seed=rng.getrandbits(64))
    width = rng.randrange(2, 11)
    return DecodeOptions(**shared, beam_width=width, captions=rng.randrange(1, width + 1))
