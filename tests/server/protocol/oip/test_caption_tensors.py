"""Captions as tensors: what was not found, and pieces of work for captions of many pictures."""

import asyncio
from types import SimpleNamespace
from typing import TypeVar

import numpy as np
import pytest
from resonnx_proto.v1 import vision_pb2
from resonnx_server.captioning.request import Captioned
from resonnx_server.inference.lease import Lease
from resonnx_server.inference.requests import ActiveRequest
from resonnx_server.inference.tasks import CAPTION
from resonnx_server.memory.budget import Budget
from resonnx_server.observe.metrics import Metrics
from resonnx_server.observe.stats import Timing
from resonnx_server.protocol.oip.parameters import RequestParameters
from resonnx_server.protocol.oip.tasks import SERVE, caption_tensors
from resonnx_server.protocol.pieces import Pieces, Work, at_once
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.decoding.sequence import Sequence
from resonnx_server.scheduling.device import Device

from ... import language
from ...hand import caption_engine

T = TypeVar("T")


def test_captions_that_were_not_found_are_empty_and_impossible() -> None:
    found = Sequence(language.spec(), 5)
    found.advance(7, -0.5)
    found.advance(language.END, -0.25)
    rows = [
        Captioned([(found, -0.75), (Sequence(language.spec(), 5), 0.0)], Timing(0, 0, 0, 0, 2)),
        Captioned([(found, -0.75)], Timing(0, 0, 0, 0, 2)),
    ]
    outputs = at_once(caption_tensors(rows, DecodeOptions(max_tokens=5, beam_width=3, captions=3), language.spec()))
    assert outputs["caption"].tolist() == [[b"w7", b"", b""], [b"w7", b"", b""]]
    assert outputs["log_prob"].tolist() == [[-0.75, 0, -np.inf], [-0.75, -np.inf, -np.inf]]
    assert outputs["log_prob"].dtype == np.float32


@pytest.mark.parametrize(("pictures", "runs"), [(1, 0), (48, 1)])
async def test_captions_of_many_pictures_are_put_together_in_pieces(pictures: int, runs: int) -> None:
    """Each piece is a caption: a thousand pictures' captions at once would hold everybody up."""
    found: list[int] = []

    class Counting(Pieces):
        async def run(self, work: Work[T]) -> T:
            parts = 0
            while True:
                try:
                    next(work)
                except StopIteration as end:
                    found.append(parts)
                    result: T = end.value
                    return result
                parts += 1

    device = Device("test", 1)
    engine = caption_engine(language.Language(), device)
    images = np.stack([language.picture(number) for number in range(pictures)])
    parameters = RequestParameters(0, 4, {}, vision_pb2.CaptionRequest(beam_width=4, num_captions=4), False)
    model = SimpleNamespace(pictures=object(), engine=engine, stats=Metrics().model("m", 1), lease=Lease())
    try:
        with ActiveRequest(model, None, Budget(100), 1) as request:
            outputs = await SERVE[CAPTION.name](request, {"image": images}, parameters, None, Counting())
    finally:
        engine.close()
        await asyncio.to_thread(device.close)
    assert outputs["caption"].shape == (pictures, 4)
    assert found == [4 * pictures] * runs
