"""Captions pictures, for every front: a reservation in the queue, then pixels, then the model."""

import asyncio
import time
from typing import cast

from resonnx_server.captioning.engine import AnyCaptionEngine, CaptionEngine
from resonnx_server.captioning.request import CaptionCost, Captioned, CaptionerInfo, CaptionWork, OnWords
from resonnx_server.inference.many import all_of
from resonnx_server.inference.pictures import Pictures
from resonnx_server.inference.registry import Model
from resonnx_server.inference.requests import ActiveRequest
from resonnx_server.observe.spans.tracer import Decoded
from resonnx_server.observe.stats import ResponseStats
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.decoding.sequence import Token

__all__ = ["Captioned", "CaptionerInfo", "OnWords", "caption", "captioner"]


def captioner(model: Model) -> CaptionerInfo:
    """Return the limits of the requests of a model whose task is to caption."""
    return cast(CaptionEngine, model.engine).info


async def caption(
    request: ActiveRequest, pictures: Pictures, options: DecodeOptions, on_words: OnWords | None = None
) -> list[Captioned]:
    """Return the captions of a request's pictures, in their order.

    Args:
        request: A request of a captioner.
        pictures: One or more.
        options: Decode options of all pictures.
        on_words: Called on the event loop with words that join the stable prefix of the best caption; one picture only.

    Raises:
        BadImage: A picture cannot be decoded.
        ServerError: As Engine.reserve and Engine.submit.
    """
    if on_words is not None:
        return await _stream(request, pictures, options, on_words)
    return await _whole(request, pictures, options, None)


async def _stream(
    request: ActiveRequest, pictures: Pictures, options: DecodeOptions, on_words: OnWords
) -> list[Captioned]:
    """Count each word, and the whole answer after them, as an answer with an index."""
    stats, index, since_ns = request.model.stats, 0, time.monotonic_ns()

    def next_response() -> tuple[ResponseStats, int]:
        nonlocal index, since_ns
        now_ns = time.monotonic_ns()
        response, took_ns = stats.response(index), now_ns - since_ns
        index, since_ns = index + 1, now_ns
        return response, took_ns

    def counted(words: list[Token]) -> None:
        on_words(words)
        for _ in words:
            response, took_ns = next_response()
            response.success.add(took_ns)

    try:
        found = await _whole(request, pictures, options, counted)
    except BaseException as error:
        response, took_ns = next_response()
        (response.cancel if isinstance(error, asyncio.CancelledError) else response.fail).add(took_ns)
        raise
    response, took_ns = next_response()
    response.success.add(took_ns)
    return found


async def _whole(
    request: ActiveRequest, pictures: Pictures, options: DecodeOptions, on_words: OnWords | None
) -> list[Captioned]:
    found = await request.in_time(_caption(request, pictures, options, on_words))
    request.timing = max((each.timing for each in found), key=lambda timing: timing.end_ns)
    return found


async def _caption(
    request: ActiveRequest, pictures: Pictures, options: DecodeOptions, on_words: OnWords | None
) -> list[Captioned]:
    request.rows = pictures.count
    engine = cast(AnyCaptionEngine, request.model.engine)
    deadline, priority, decoding = request.deadline_ns, request.priority, await request.decoding(pictures)
    cost = CaptionCost(pictures.count, options)
    with engine.reserve(cost, deadline, priority, decoding, request.caller) as reservation:
        reservation.max_wait_ns = request.max_wait_ns
        pixels = await request.pixels(pictures)
        works = (engine.submit(CaptionWork(each, options, on_words), reservation) for each in pixels)
        # A task costs more than the coroutine in it.
        found = [await next(works)] if len(pixels) == 1 else await all_of(works)
    if request.span is not None:
        request.span.decoded = [Decoded(each.timing, each.encoded_ns, each.ended_ns, each.steps) for each in found]
    if request.compared is not None:
        request.compared.captioned(pixels, options, found)
    return found
