"""Streams that the server ends count as rejected, once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import Mock

import pytest
from resonnx_server.access.caller import unnamed
from resonnx_server.inference.registry import Models
from resonnx_server.inference.requests import Inference
from resonnx_server.memory.budget import Budget
from resonnx_server.memory.regions import Regions
from resonnx_server.protocol.pieces import Pieces
from resonnx_server.rpc.oip.servicer import InferenceServicer
from resonnx_server.rpc.vision.servicer import VisionServicer


@pytest.mark.parametrize("method", ["ModelStreamInfer", "ClassifyStream"])
async def test_a_stream_that_a_stopping_server_ends(method: str) -> None:
    inference = Inference(Models(), Mock(), Budget(1 << 20))
    servicer: Any = VisionServicer(inference, 1 << 20, Pieces())
    if method == "ModelStreamInfer":
        servicer = InferenceServicer(inference, 1 << 20, Pieces(), Regions())
    context = Mock(caller=unnamed("ipv4:127.0.0.1:1"), unsent=0, **{"time_remaining.return_value": None})

    async def requests() -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield None

    call = asyncio.create_task(getattr(servicer, method)(requests(), context))
    await asyncio.sleep(0)
    inference.models.closing.set()
    await asyncio.wait_for(call, 10)
    context.set_status.assert_called_once()
    counts = inference.models.rejected.counts
    assert (counts["UNAVAILABLE"], sum(counts.values())) == (1, 1)
