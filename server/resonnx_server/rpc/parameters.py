"""Request parameters that are acted on.

Of Triton's extensions `timeout` (where the model's settings allow it), `priority`, and `classification` of an output;
of a captioner `beam_width`, `num_captions`, `min_tokens`, `max_tokens`, `temperature`, `seed` and `stream`, which mean
what they mean in vision.proto.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.v1 import vision_pb2

from resonnx_server.engine.batcher import DEFAULT_PRIORITY
from resonnx_server.engine.model import Model
from resonnx_server.errors import InvalidInput
from resonnx_server.rpc.urgency import checked_priority
from resonnx_server.runtime.session import Array

# perf_analyzer's client sends it with every request; it only matters on streams.
_ALLOWED_RESERVED: Final = "triton_enable_empty_final_response"
_MAX_UINT32: Final = 2**32 - 1
# Parameters, and outputs that are asked for: to look at millions would take seconds.
_MOST: Final = 1024


@dataclass(frozen=True)
class RequestParameters:
    """Parsed parameters.

    Attributes:
        timeout_us: 0 is none. Acted on only where the model's `allow_timeout_override` says so.
        priority: 1 is the most urgent.
        top_k: How many classes to show of which outputs.
        caption: How a captioner shall decode.
        stream: A captioner shall tell words as they become certain.
    """

    timeout_us: int
    priority: int
    top_k: dict[str, int]
    caption: vision_pb2.CaptionRequest
    stream: bool


_DEFAULTS: Final = RequestParameters(0, DEFAULT_PRIORITY, {}, vision_pb2.CaptionRequest(), False)


def parse_parameters(request: pb.ModelInferRequest) -> RequestParameters:
    """Read a request's parameters; unknown ones are ignored.

    Raises:
        InvalidInput: A wrong type or range, or too many of them or of outputs.
    """
    given, outputs = request.parameters, request.outputs
    if not given and not outputs:
        return _DEFAULTS
    for field, count in (("parameters", len(given)), ("outputs", len(outputs))):
        if count > _MOST:
            raise InvalidInput(field, f"{count} are given, more than {_MOST}")
    keys = [key for key in given if key != _ALLOWED_RESERVED]
    if not keys and not any(output.parameters for output in outputs):
        return _DEFAULTS
    for key in keys:
        if key.startswith("triton_"):
            raise InvalidInput("parameters", f"{key[:64]!r} is reserved")
    timeout_us = _integer(given, "timeout", "parameters")
    priority = checked_priority(_integer(given, "priority", "parameters"), "parameters['priority']")
    top_k: dict[str, int] = {}
    for output in outputs:
        if "classification" in output.parameters:
            k = _integer(output.parameters, "classification", f"outputs[{output.name[:64]!r}].parameters")
            if k:
                top_k[output.name] = k
    stream = "stream" in given and given["stream"].bool_param
    return RequestParameters(timeout_us, priority, top_k, _caption(given), stream)


def check_classification(parameters: RequestParameters, model: Model) -> None:
    """Raise InvalidInput where classes are asked for of an output that has none."""
    for spec in model.outputs:
        if spec.name in parameters.top_k and spec.dtype == object:
            raise InvalidInput("outputs", f"classification needs a numeric output, which {spec.name!r} is not")


def classify(array: Array, top_k: int, labels: Sequence[str], *, batched: bool) -> Array:
    """Return an output's best classes as the classification extension writes them: "<value>:<index>[:<label>]".

    Args:
        array: Numbers, [N, ...] if batched.
        top_k: How many, or all where there are fewer.
        labels: Names by class index, where the classes have names.
        batched: Each row is classified on its own.

    Returns:
        Objects (bytes) [N,k] or [k].
    """
    rows = array.reshape(len(array), -1) if batched else array.reshape(1, -1)
    k = min(top_k, rows.shape[1])
    best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :k]
    shown = np.empty(best.shape, object)
    for row, indices in enumerate(best.tolist()):
        for column, index in enumerate(indices):
            label = f":{labels[index]}" if rows.shape[1] == len(labels) else ""
            shown[row, column] = f"{float(rows[row, index]):.6f}:{index}{label}".encode()
    return shown if batched else shown[0]


def _caption(parameters: Mapping[str, pb.InferParameter]) -> vision_pb2.CaptionRequest:
    request = vision_pb2.CaptionRequest()
    for name in ("beam_width", "num_captions", "min_tokens", "max_tokens"):
        value = _integer(parameters, name, "parameters")
        if value > _MAX_UINT32:
            raise InvalidInput(f"parameters[{name!r}]", f"{value} is too large")
        setattr(request, name, value)
    if "seed" in parameters:
        request.seed = _integer(parameters, "seed", "parameters")
    if "temperature" in parameters:
        kind = parameters["temperature"].WhichOneof("parameter_choice")
        if kind not in ("double_param", "int64_param", "uint64_param"):
            raise InvalidInput("parameters['temperature']", "must be a number")
        request.temperature = getattr(parameters["temperature"], kind)
    return request


def _integer(parameters: Mapping[str, pb.InferParameter], name: str, field: str) -> int:
    parameter = parameters.get(name)
    if parameter is None:
        return 0
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        raise InvalidInput(f"{field}[{name!r}]", "must be an integer")
    value = int(getattr(parameter, kind))
    if value < 0:
        raise InvalidInput(f"{field}[{name!r}]", f"{value} is negative")
    return value
