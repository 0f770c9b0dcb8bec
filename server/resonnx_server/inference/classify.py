"""Classifies pictures, for every front: a reservation in the queue, then pixels, then the model."""

import time
from typing import cast

from resonnx_server.inference.requests import ActiveRequest
from resonnx_server.observe.stats import Timing
from resonnx_server.preprocessing.decode import DecodedPictures, EncodedPictures, Pictures, RawPicture
from resonnx_server.scheduling.session_pool import Tensors
from resonnx_server.tensors.engine import TensorEngine

__all__ = ["DecodedPictures", "EncodedPictures", "Pictures", "RawPicture", "Tensors", "classify"]


async def classify(request: ActiveRequest, pictures: Pictures) -> Tensors:
    """Return a classifier's outputs [N, ...] by name for a request's N pictures.

    Raises:
        BadImage: A picture cannot be decoded.
        ServerError: See TensorEngine.submit.
    """
    outputs, request.timing = await request.in_time(_classify(request, pictures))
    return outputs


async def _classify(request: ActiveRequest, pictures: Pictures) -> tuple[Tensors, Timing]:
    model, priority, decoding = request.model, request.priority, None
    engine = cast(TensorEngine, model.engine)
    assert model.pictures is not None
    if not isinstance(pictures, DecodedPictures):
        decoding = await request.decoder.expected_of(pictures, model.pictures, priority)
    with engine.reserve(pictures.count, request.deadline_ns, priority, decoding) as reservation:
        if isinstance(pictures, DecodedPictures):
            pixels = pictures.pixels
        else:
            start_ns = time.monotonic_ns()
            pixels = await request.decoder.pixels_of(pictures, model.pictures, priority)
            request.decode_ns = time.monotonic_ns() - start_ns
        return await engine.submit({"image": pixels}, reservation)
