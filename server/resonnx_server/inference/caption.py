"""Captions pictures, for every front: a reservation in the queue, then pixels, then the model."""

import time
from typing import cast

from resonnx_server.captioning.engine import CaptionEngine
from resonnx_server.captioning.request import Captioned, OnWords
from resonnx_server.inference.many import all_of
from resonnx_server.inference.registry import Model
from resonnx_server.inference.requests import ActiveRequest
from resonnx_server.preprocessing.decode import DecodedPictures, Pictures
from resonnx_server.runtime.decoding.search import DecodeOptions

__all__ = ["CaptionEngine", "Captioned", "OnWords", "caption", "captioner"]


def captioner(model: Model) -> CaptionEngine:
    """Return the engine of a model whose task is to caption."""
    return cast(CaptionEngine, model.engine)


async def caption(
    request: ActiveRequest, pictures: Pictures, options: DecodeOptions, on_words: OnWords | None = None
) -> list[Captioned]:
    """Return the captions of a request's pictures, in their order.

    Args:
        request: Of a captioner.
        pictures: One or more.
        options: For all of them.
        on_words: Takes words of the best caption of a single picture as they become certain; on the event loop.

    Raises:
        BadImage: A picture cannot be decoded.
        ServerError: See CaptionEngine.submit.
    """
    found = await request.in_time(_caption(request, pictures, options, on_words))
    request.timing = max((each.timing for each in found), key=lambda timing: timing.queue_ns)
    return found


async def _caption(
    request: ActiveRequest, pictures: Pictures, options: DecodeOptions, on_words: OnWords | None
) -> list[Captioned]:
    model, deadline, priority = request.model, request.deadline_ns, request.priority
    engine, decoding = captioner(model), None
    assert model.pictures is not None
    if not isinstance(pictures, DecodedPictures):
        decoding = await request.decoder.expected_of(pictures, model.pictures, priority)
    with engine.place(pictures.count, options, deadline, priority, decoding) as place:
        if isinstance(pictures, DecodedPictures):
            pixels = pictures.pixels
        else:
            start_ns = time.monotonic_ns()
            pixels = await request.decoder.pixels_of(pictures, model.pictures, priority)
            request.decode_ns = time.monotonic_ns() - start_ns
        works = (engine.submit(each, options, on_words, deadline, priority, place) for each in pixels)
        # A task costs more than the coroutine in it.
        return [await next(works)] if len(pixels) == 1 else await all_of(works)
