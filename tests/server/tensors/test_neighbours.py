"""One bad member of any batch, of any kind and at any place, leaves everybody else's answer as it is without it."""

import asyncio
import logging
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.errors import InferenceFailed
from resonnx_server.observe.metrics import Metrics
from resonnx_server.repository import classifiers
from resonnx_server.runtime.session import Session
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool, Tensors
from resonnx_server.tensors.engine import TensorEngine

from ...conftest import examples
from .. import onnx_classifier
from ..asking import infer
from ..hand import Hand


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What fails here is logged with its frames, thousands of times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def _times(feeds: Mapping[str, np.ndarray], kind: str) -> Tensors:
    """Answer each row by itself, but for bad rows, which hold -1."""
    values = feeds["x"]
    bad = values[:, 0] == -1
    if kind == "run raises" and bad.any():
        raise RuntimeError("a poisoned row")
    outputs = {"probabilities": values / 7, "logits": values * 3}
    if kind in outputs:
        outputs[kind][bad, -1] = np.nan
    elif kind == "infinite":
        outputs["logits"][bad, 0] = -np.inf
    return outputs


async def _compute(asked: list[tuple[int, np.ndarray]], bad: int | None, kind: str, seed: int) -> list[object]:
    """Return what became of each request, on a device whose jobs end in an order of the seed's."""
    rng = random.Random(seed)
    raised: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    device = Hand(rng.randrange(1, 4), rng)
    # Some sizes are padded to.
    table = LatencyTable({size: 1e6 + 1e4 * size for size in sizes_up_to(8) if rng.random() < 0.7 or size == 8})
    pool = SessionPool(lambda feeds: _times(feeds, kind), table)
    engine = TensorEngine(
        InstanceGroup(pool, pool, device.lanes), device, Metrics().model("m", 1), max_queue_rows=1000, finite=True
    )
    tasks: dict[int, asyncio.Task[Any]] = {}
    leaves_ns = rng.randrange(12) * 500_000
    while len(tasks) < len(asked) or not all(task.done() for task in tasks.values()):
        for number, (at_ns, rows) in enumerate(asked):
            if number not in tasks and at_ns <= device.ns:
                tasks[number] = asyncio.ensure_future(infer(engine, {"x": rows}))
        if kind == "the caller leaves" and bad is not None and bad in tasks and device.ns >= leaves_ns:
            tasks[bad].cancel()
        await asyncio.sleep(0)
        device.turn(engine)
        await asyncio.sleep(0)
    while device.idle_lanes() < device.lanes:
        device.turn(engine)
    await asyncio.sleep(0)
    assert engine.queued_rows() == 0
    assert not raised
    engine.close()
    results = await asyncio.gather(*(tasks[number] for number in range(len(asked))), return_exceptions=True)
    return [result[0] if isinstance(result, tuple) else result for result in results]


@examples(100)
@given(
    st.integers(0, 2**32),
    st.sampled_from(["run raises", "probabilities", "logits", "infinite", "the caller leaves"]),
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 20)), min_size=1, max_size=12),
    st.data(),
)
def test_classifiers(seed: int, kind: str, asked: list[tuple[int, int]], data: st.DataObject) -> None:
    numbers = np.random.default_rng(seed)
    requests = [(at * 1_000_000, numbers.random((rows, 3), np.float32)) for at, rows in asked]
    bad = data.draw(st.integers(0, len(requests)))
    rows = numbers.random((data.draw(st.integers(1, 20)), 3), np.float32)
    rows[data.draw(st.integers(0, len(rows) - 1))] = -1
    poisoned = [*requests[:bad], (data.draw(st.integers(0, 4)) * 1_000_000, rows), *requests[bad:]]
    without = asyncio.run(_compute(requests, None, kind, seed))
    beside = asyncio.run(_compute(poisoned, bad, kind, seed))
    outcome = beside.pop(bad)
    for mine, other in zip(beside, without, strict=True):
        assert isinstance(mine, dict)
        assert isinstance(other, dict)
        assert all(np.array_equal(mine[name], other[name]) for name in ("probabilities", "logits"))
    if kind == "the caller leaves":
        assert isinstance(outcome, asyncio.CancelledError | dict)
    else:
        assert isinstance(outcome, InferenceFailed)
        assert outcome.__cause__ is outcome.__context__ is None, "frames, and with them everybody's inputs"


@pytest.mark.parametrize("poisoned", ["probabilities", "logits", "features"])
async def test_a_classifier_with_a_manifest_answers_no_nan(poisoned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a picture of nothing but white gives one."""
    run = Session.run

    def answers(session: Session, feeds: Tensors, *more: object) -> Tensors:
        outputs = {name: array.copy() for name, array in run(session, feeds, *more).items()}
        outputs[poisoned][(feeds["image"] == 255).all(axis=(1, 2, 3)), 1] = np.nan
        return outputs

    monkeypatch.setattr(Session, "run", answers)
    device, golden = Device("cpu", 1), onnx_classifier.golden()
    model = classifiers.ENTRY.load(onnx_classifier.version(device, max_batch_size=4), onnx_classifier.files(), golden)()
    white = np.full((1, 2, 2, 3), 255, np.uint8)
    try:
        pictures = [*golden.images[:, np.newaxis], white, np.concatenate([golden.images, white])]
        asks = [infer(model.engine, {"image": images}) for images in pictures]
        *right, failed, also_failed = await asyncio.gather(*asks, return_exceptions=True)
        assert isinstance(failed, InferenceFailed)
        assert isinstance(also_failed, InferenceFailed)
        logits = np.concatenate([answer[0]["logits"] for answer in right])
        np.testing.assert_allclose(logits, golden.logits, rtol=1e-4)
    finally:
        model.engine.close()
        device.close()
