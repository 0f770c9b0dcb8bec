"""The supported request parameters.

From Triton: `timeout` (if the model's settings allow it), `priority`, and `classification` of an output. For captioners
`beam_width`, `num_captions`, `min_tokens`, `max_tokens`, `temperature` and `seed`, as in vision.proto, and `stream`,
which emits the stable prefix of a caption. On a stream, an answer with `preserve_ordering` false may overtake others.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.v1 import vision_pb2

from resonnx_server.errors import InvalidInput
from resonnx_server.inference.registry import Model
from resonnx_server.inference.tensors import Tensors
from resonnx_server.protocol.oip.ranking import check_classes, ranked_shape

# Sent by perf_analyzer with every request; it only matters on streams.
_ALLOWED_RESERVED: Final = "triton_enable_empty_final_response"
_CHOICE: Final = "parameter_choice"
_MAX_UINT32: Final = 2**32 - 1
# Limit of parameters and of requested outputs: millions would take seconds.
_MOST: Final = 1024


@dataclass(frozen=True)
class RequestParameters:
    """Parsed parameters.

    Attributes:
        timeout_us: 0 is none. Ignored unless the model's `allow_timeout_override` is set.
        priority: 1 (first) to PRIORITY_LEVELS, not checked; 0 is the default.
        top_k: Number of classes by output.
        caption: Decode options of a captioner.
        stream: Emit a captioner's words as they join the stable prefix.
    """

    timeout_us: int
    priority: int
    top_k: dict[str, int]
    caption: vision_pb2.CaptionRequest
    stream: bool


_DEFAULTS: Final = RequestParameters(0, 0, {}, vision_pb2.CaptionRequest(), False)


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
    timeout_us = integer_parameter(given, "timeout", "parameters")
    priority = integer_parameter(given, "priority", "parameters")
    top_k: dict[str, int] = {}
    for output in outputs:
        if "classification" in output.parameters:
            k = integer_parameter(output.parameters, "classification", f"outputs[{output.name[:64]!r}].parameters")
            if k:
                top_k[output.name] = k
    stream = _flag(given, "stream")
    _flag(given, "preserve_ordering")
    return RequestParameters(timeout_us, priority, top_k, _caption(given), stream)


def keeps_order(request: pb.ModelInferRequest) -> bool:
    """Whether a request's answer is held back for those of earlier requests of the stream.

    The default, except for `stream`, whose parts are paired by id.
    """
    given = request.parameters
    if "stream" in given and given["stream"].bool_param:
        return False
    # A parameter of another type is refused later, in order.
    kept = given.get("preserve_ordering")
    return kept is None or kept.WhichOneof(_CHOICE) != "bool_param" or kept.bool_param


def check_classification(parameters: RequestParameters, model: Model, inputs: Tensors) -> None:
    """Raise InvalidInput if an output has no classes, or more than ranking.MAX_CLASSES are requested.

    Outputs of unknown shape are checked when their answer is made.
    """
    first = inputs.get(model.inputs[0].name, next(iter(inputs.values())))
    rows = len(first) if first.ndim else 1
    classes = 0
    for spec in model.outputs:
        top_k = parameters.top_k.get(spec.name)
        if top_k is None:
            continue
        if spec.dtype == object:
            raise InvalidInput("outputs", f"classification needs a numeric output, which {spec.name!r} is not")
        batched = model.max_batch_size > 0
        shape = (rows, *spec.shape[1:]) if batched else spec.shape
        if all(isinstance(size, int) for size in shape):
            classes += math.prod(ranked_shape(cast(tuple[int, ...], shape), top_k, batched=batched))
    check_classes(classes)


def _caption(parameters: Mapping[str, pb.InferParameter]) -> vision_pb2.CaptionRequest:
    request = vision_pb2.CaptionRequest()
    for name in ("beam_width", "num_captions", "min_tokens", "max_tokens"):
        value = integer_parameter(parameters, name, "parameters")
        if value > _MAX_UINT32:
            raise InvalidInput(f"parameters[{name!r}]", f"{value} is too large")
        setattr(request, name, value)
    if "seed" in parameters:
        request.seed = integer_parameter(parameters, "seed", "parameters")
    if "temperature" in parameters:
        kind = parameters["temperature"].WhichOneof(_CHOICE)
        if kind not in ("double_param", "int64_param", "uint64_param"):
            raise InvalidInput("parameters['temperature']", "must be a number")
        request.temperature = getattr(parameters["temperature"], kind)
    return request


def _flag(parameters: Mapping[str, pb.InferParameter], name: str) -> bool:
    parameter = parameters.get(name)
    if parameter is None:
        return False
    if parameter.WhichOneof(_CHOICE) != "bool_param":
        raise InvalidInput(f"parameters[{name!r}]", "must be a bool")
    return parameter.bool_param


def string_parameter(parameters: Mapping[str, pb.InferParameter], name: str, field: str) -> str:
    """Return a string; "" if it is missing. Raises InvalidInput, naming `field`, if it is of another kind."""
    parameter = parameters.get(name)
    if parameter is not None and parameter.WhichOneof(_CHOICE) != "string_param":
        raise InvalidInput(f"{field}[{name!r}]", "must be a string")
    return "" if parameter is None else parameter.string_param


def integer_parameter(parameters: Mapping[str, pb.InferParameter], name: str, field: str) -> int:
    """Return an integer; 0 if it is missing. Raises InvalidInput, naming `field`, unless it is one of at least 0."""
    parameter = parameters.get(name)
    if parameter is None:
        return 0
    kind = parameter.WhichOneof(_CHOICE)
    if kind not in ("int64_param", "uint64_param"):
        raise InvalidInput(f"{field}[{name!r}]", "must be an integer")
    value = int(getattr(parameter, kind))
    if value < 0:
        raise InvalidInput(f"{field}[{name!r}]", f"{value} is negative")
    return value
