"""Runs tensors through a bare ONNX file, as they come."""

from typing import cast

from resonnx_server.inference.requests import ActiveRequest
from resonnx_server.scheduling.session_pool import Tensors
from resonnx_server.tensors.engine import TensorEngine

__all__ = ["Tensors", "infer"]


async def infer(request: ActiveRequest, inputs: Tensors, *, whole: bool) -> Tensors:
    """Return the model's outputs by name.

    Args:
        request: Of a bare ONNX file.
        inputs: Arrays by input name, checked against the model.
        whole: Run them in a batch of their own; see TensorEngine.submit.

    Raises:
        ServerError: See TensorEngine.submit.
    """
    engine = cast(TensorEngine, request.model.engine)
    outputs, request.timing = await request.in_time(
        engine.run(inputs, request.deadline_ns, request.priority, whole=whole)
    )
    return outputs
