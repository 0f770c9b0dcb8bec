"""What is left of streams that were cancelled or failed: nothing, and no garbage collection is needed for it."""

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
from resonnx_server.rpc.boundary import one_status
from resonnx_server.rpc.pipeline import pipeline

from ..answers import Answers


@pytest.mark.parametrize("more_may_come", [False, True])
async def test_a_cancelled_call_keeps_its_request_for_no_garbage_collection(more_may_come: bool) -> None:
    """Pictures of callers who leave would pile up until then."""

    class Request:
        pass

    async def hold(request: Request, tell) -> None:
        under_way.set()
        await asyncio.Event().wait()

    async def requests(request: Request) -> AsyncIterator[Request]:
        yield request
        if more_may_come:
            await asyncio.Event().wait()

    @one_status
    async def method(servicer: None, request: Request, context: None) -> None:
        try:
            await pipeline(requests(request), hold, Answers(), asyncio.Event())
        finally:
            gone.set()

    gc.collect()
    gc.disable()
    try:
        under_way, gone = asyncio.Event(), asyncio.Event()
        request = Request()
        left = weakref.ref(request)
        call = asyncio.ensure_future(method(None, request, None))
        del request
        await under_way.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert gone.is_set()
        del call
        await asyncio.sleep(0)
        assert left() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("why", ["an error", "a slow reader"])
async def test_a_stream_that_failed_keeps_its_answers_for_no_garbage_collection(why: str) -> None:
    async def requests() -> AsyncIterator[int]:
        yield 0

    async def answer(request: int, tell) -> int:
        if why == "an error":
            raise ValueError(why)
        while True:
            tell(request)
            await asyncio.sleep(0)

    @one_status
    async def method(servicer: None, request: None, context: Any) -> None:
        await pipeline(requests(), answer, context, asyncio.Event(), unread=8)

    # What pytest captures of the log would keep the errors.
    logging.disable()
    gc.collect()
    gc.disable()
    try:
        answers = Answers(reads=False)
        left = weakref.ref(answers)
        await method(None, None, answers)
        del answers
        await asyncio.sleep(0)
        assert left() is None
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)
