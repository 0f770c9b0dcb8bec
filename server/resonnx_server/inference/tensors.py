"""Runs tensors through a bare ONNX file, as they come."""

from typing import cast

from resonnx_server.inference.requests import ActiveRequest
from resonnx_server.scheduling.session_pool import Tensors
from resonnx_server.tensors.engine import AnyTensorEngine, TensorAnswer, TensorCost

__all__ = ["Tensors", "infer"]


async def infer(request: ActiveRequest, inputs: Tensors, *, whole: bool) -> Tensors:
    """Return the model's outputs by name.

    Args:
        request: A request of a bare ONNX file.
        inputs: Arrays by input name, checked against the model.
        whole: Run them in a batch of their own; see TensorCost.

    Raises:
        ServerError: As Engine.reserve and Engine.submit.
    """
    outputs, request.timing = await request.in_time(_infer(request, inputs, whole))
    return outputs


async def _infer(request: ActiveRequest, inputs: Tensors, whole: bool) -> TensorAnswer:
    engine = cast(AnyTensorEngine, request.model.engine)
    rows = len(next(iter(inputs.values()))) if request.model.max_batch_size and request.model.shares_batches else 1
    request.rows = rows
    cost = TensorCost(rows, whole)
    with engine.reserve(cost, request.deadline_ns, request.priority, caller=request.caller) as reservation:
        reservation.max_wait_ns = request.max_wait_ns
        return await engine.submit(inputs, reservation)
