"""What the watches of drift are told of batches: each good row of requests once, and of comparisons apart."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.captioning.request import Captioned, CaptionTask, Completions
from resonnx_server.drift.drift import Drift, Watch
from resonnx_server.errors import InferenceFailed
from resonnx_server.observe.metrics import Metrics
from resonnx_server.observe.stats import Timing
from resonnx_server.runtime.decoding.sequence import Token
from resonnx_server.runtime.graphs import DRIFT_FEATURES
from resonnx_server.runtime.model_files.drift_reference import DRIFT, DriftReference, dump_drift
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool, Tensors
from resonnx_server.scheduling.sharing import COMPARISON
from resonnx_server.tensors.engine import TensorCost, TensorEngine

SAID = pb.DriftReference(pictures=100, features=2, projections=2)
MANIFEST = pb.Manifest(drift=SAID, classifier=pb.ClassifierSpec(labels="ab"))
REFERENCE = DriftReference(np.eye(2, dtype=np.float32), np.random.default_rng(0).standard_normal((100, 2), np.float32))
# Batches of other sizes are padded.
COSTS = {4: 1e6, 16: 2e6}
TIMING = Timing(0, 0, 0, 0, 1)


class Told:
    """The features that a watch was told."""

    def __init__(self) -> None:
        self.rows: list[float] = []

    def add_pictures(self, features: np.ndarray) -> None:
        assert features.shape[1:] == (2,)
        self.rows += features[:, 0].tolist()


def _run(feeds: Mapping[str, np.ndarray], *, more: Sequence[str] = ()) -> Tensors:
    """Answer 1/x; the feature is x. A batch with 13 fails."""
    x = feeds["x"]
    if (x == 13).any():
        raise RuntimeError("poisoned")
    with np.errstate(divide="ignore"):
        found = {"y": 1 / x}
    assert list(more) == [DRIFT_FEATURES]
    return {**found, DRIFT_FEATURES: np.repeat(x, 2, axis=1)}


async def _ask(engine: TensorEngine, *values: float, caller: str = "") -> Tensors:
    rows = np.array(values, np.float32).reshape(-1, 1)
    # As comparison/running.py asks.
    cost = TensorCost(len(values), whole=caller == COMPARISON)
    with engine.reserve(cost, caller=caller) as reservation:
        outputs, _ = await engine.submit({"x": rows}, reservation)
    return outputs


async def test_rows_of_requests_are_told_once_without_padding_and_without_failures() -> None:
    device = Device("test", 1, time.monotonic_ns)
    pool = SessionPool(_run, LatencyTable(COSTS))
    drift = Drift.of({DRIFT: dump_drift(REFERENCE)}, MANIFEST)
    group, stats = InstanceGroup.single(pool), Metrics().model("m", 1)
    engine = TensorEngine(group, device, stats, max_queue_rows=100, finite=True, drift=drift)
    requests, comparison = Told(), Told()
    engine.drift = Drift(requests, comparison)  # type: ignore[arg-type]
    try:
        answers = await asyncio.gather(
            _ask(engine, 1, 2, 3),
            _ask(engine, 4),
            # Not finite, and poisoned: these fail alone.
            _ask(engine, 0),
            _ask(engine, 13),
            _ask(engine, 5, 6, caller=COMPARISON),
            _ask(engine, *range(20, 40)),
            return_exceptions=True,
        )
        await asyncio.sleep(0)
    finally:
        engine.close()
        device.close()
    assert [isinstance(answer, InferenceFailed) for answer in answers] == [False, False, True, True, False, False]
    # Callers do not get what the watch reads.
    assert all(answer.keys() == {"y"} for answer in answers if isinstance(answer, dict))
    assert sorted(requests.rows) == [1, 2, 3, 4, *range(20, 40)]
    assert sorted(comparison.rows) == [5, 6]


def test_a_manifest_that_names_a_reference_has_one() -> None:
    with pytest.raises(Exception, match=r"drift\.npz is missing"):
        Drift.of({}, MANIFEST)
    assert Drift.of({}, pb.Manifest()) is None


def test_pictures_and_captions_of_a_captioner_are_told_by_caller() -> None:
    told: dict[str, list[object]] = {"key:a": [], COMPARISON: []}

    def watch_of(caller: str) -> Watch:
        note = told[caller].append
        return cast(Watch, SimpleNamespace(add_pictures=lambda found: note(found.tolist()), add_caption=note))

    def finished(caller: str, *tokens: int) -> tuple[CaptionTask, Captioned]:
        task = SimpleNamespace(future=SimpleNamespace(done=lambda: True), turn=(1, caller))
        best, other = (SimpleNamespace(tokens=[Token(each, -1.0) for each in ids]) for ids in (tokens, (9,)))
        return cast(CaptionTask, task), cast(Captioned, Captioned([(best, 0.0), (other, -1.0)], TIMING))  # type: ignore[list-item]

    completions = Completions(finished=[finished("key:a", 3, 4), finished(COMPARISON, 5)])
    completions.watched += [("key:a", np.ones((2, 1))), (COMPARISON, np.zeros((1, 1)))]
    completions.deliver(Metrics().model("m", 1), watch_of)
    assert told == {"key:a": [[[1.0], [1.0]], [3, 4]], COMPARISON: [[[0.0]], [5]]}
