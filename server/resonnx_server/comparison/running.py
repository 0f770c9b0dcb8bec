"""Runs copies of requests on a version, below all requests and in batches of their own."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Final, cast

import numpy as np

from resonnx_server.captioning.engine import AnyCaptionEngine
from resonnx_server.captioning.request import CaptionCost, Captioned, CaptionWork
from resonnx_server.comparison.copies import Answer, Copy
from resonnx_server.inference.model import Model
from resonnx_server.inference.tasks import CLASSIFY
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.sharing import COMPARISON, PRIORITY_LEVELS
from resonnx_server.tensors.engine import AnyTensorEngine, TensorCost

# Longest batch of several copies, as expected: one that needs more is of one picture.
_LONGEST_NS: Final = 50_000_000


async def idle(device: Device) -> None:
    """Wait until no work is ready and more than half of the device's lanes have no job."""
    loop, is_idle = asyncio.get_running_loop(), asyncio.Event()

    def call() -> None:
        # The loop may be closed.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(is_idle.set)

    if not device.is_idle_or_notifies(call):
        await is_idle.wait()


def batch_size(model: Model, first: Copy, waiting: int) -> int:
    """Return how many copies to run at once: as many rows as the live batch had, of a size that was measured.

    Captions are run one by one, so that their steps can give way.
    """
    if model.task is not CLASSIFY:
        return 1
    most, table = min(first.rows, waiting), model.sessions[0].table
    fitting = [size for size in table.sizes if size <= most and table.time_ns(size) <= _LONGEST_NS]
    return max(fitting, default=1)


async def run(model: Model, copies: list[Copy]) -> tuple[list[Answer], float]:
    """Return the answers of a version for copies of a request, and its compute ns: of a batch, or of a caption's step.

    Raises:
        ServerError: As Engine.reserve and Engine.submit.
    """
    return await (_classify if model.task is CLASSIFY else _caption)(model, copies)


async def _classify(model: Model, copies: list[Copy]) -> tuple[list[Answer], float]:
    engine = cast(AnyTensorEngine, model.engine)
    pixels = np.stack([copy.pixels for copy in copies])
    # A batch that nothing joins, whose time is not learnt from.
    cost = TensorCost(len(copies), whole=True)
    with engine.reserve(cost, None, PRIORITY_LEVELS, None, COMPARISON) as reservation:
        outputs, timing = await engine.submit({"image": pixels}, reservation)
    return [*outputs["probabilities"]], timing.compute_infer_ns


async def _caption(model: Model, copies: list[Copy]) -> tuple[list[Answer], float]:
    engine = cast(AnyCaptionEngine, model.engine)
    (copy,) = copies
    assert copy.options is not None
    options = replace(copy.options, attention=False)
    with engine.reserve(CaptionCost(1, options), None, PRIORITY_LEVELS, None, COMPARISON) as reservation:
        captioned = await engine.submit(CaptionWork(copy.pixels, options), reservation)
    steps = max(1, len(captioned.ranked[0][0].tokens))
    return [words(captioned)], captioned.timing.compute_infer_ns / steps


def words(captioned: Captioned) -> tuple[int, ...]:
    """Return the ids of the best caption's words."""
    return tuple(token.id for token in captioned.ranked[0][0].shown())
