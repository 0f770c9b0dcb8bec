"""Classifies pictures, for every front: a reservation in the queue, then pixels, then the model."""

from typing import cast

from resonnx_server.inference.pictures import Pictures
from resonnx_server.inference.requests import ActiveRequest
from resonnx_server.scheduling.session_pool import Tensors
from resonnx_server.tensors.engine import AnyTensorEngine, TensorAnswer, TensorCost


async def classify(request: ActiveRequest, pictures: Pictures, more_outputs: tuple[str, ...] = ()) -> Tensors:
    """Return a classifier's outputs [N, ...] by name for a request's N pictures; `more_outputs` only if they are named.

    Raises:
        BadImage: A picture cannot be decoded.
        ServerError: As Engine.reserve and Engine.submit.
    """
    outputs, request.timing = await request.in_time(_classify(request, pictures, more_outputs))
    return outputs


async def _classify(request: ActiveRequest, pictures: Pictures, more_outputs: tuple[str, ...]) -> TensorAnswer:
    request.rows = pictures.count
    engine = cast(AnyTensorEngine, request.model.engine)
    cost, decoding = TensorCost(pictures.count), await request.decoding(pictures)
    with engine.reserve(cost, request.deadline_ns, request.priority, decoding, request.caller) as reservation:
        reservation.max_wait_ns, reservation.more_outputs = request.max_wait_ns, more_outputs
        pixels = await request.pixels(pictures)
        outputs, timing = await engine.submit({"image": pixels}, reservation)
    if request.compared is not None:
        request.compared.classified(pixels, outputs, timing)
    return outputs, timing
