"""Requests of the Open Inference Protocol in JSON, with the contents of inputs in it or after it.

Source: Open Inference Protocol v2, "HTTP/REST" and its extension of binary tensor data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.errors import InvalidInput
from resonnx_server.http.rest.tensors.json_cut import Span, cut_json
from resonnx_server.http.rest.tensors.json_data import JsonData
from resonnx_server.protocol.oip.request import InferRequest, Written
from resonnx_server.protocol.oip.shared_memory import REGION
from resonnx_server.protocol.pieces import Work

# Limits of what a message can hold.
_INT64: Final = (-(1 << 63), (1 << 63) - 1)
_MAX_UINT64: Final = (1 << 64) - 1
# More than any model takes, or gives.
_MOST_TENSORS: Final = 1024
_LONGEST_NAME: Final = 256
# MLServer's parameter of inputs and outputs, and its value for strings that hold other bytes.
CONTENT_TYPE: Final = "content_type"
BASE64: Final = "base64"


@dataclass(frozen=True, slots=True)
class Asked:
    """Which outputs are asked for as binary data.

    Attributes:
        by_default: Those that do not say so themselves.
        by_output: By output name.
    """

    by_default: bool
    by_output: Mapping[str, bool]

    def is_binary(self, output: str) -> bool:
        """Whether an output is asked for as binary data."""
        return self.by_output.get(output, self.by_default)


def read_request(
    body: bytes | bytearray, head_bytes: int | None, name: str, version: str
) -> Work[tuple[InferRequest, Asked]]:
    """Read a request, without the elements of its inputs.

    Args:
        body: The whole body.
        head_bytes: Bytes of the JSON, if binary data follows it; None if all is JSON.
        name: The model's name.
        version: The model's version or label; "" for the default one.

    Raises:
        UnreadableMessage: The JSON is none.
        InvalidInput: It is not such a request, or the sizes of binary data do not fit.
    """
    end = len(body) if head_bytes is None else head_bytes
    if end > len(body):
        header = f"Inference-Header-Content-Length is {end}"
        raise InvalidInput("request", f"{header}, and the body has {len(body)} bytes")
    cut = yield from cut_json(body, end)
    head = _object(cut.head, "request")
    message = pb.ModelInferRequest(model_name=name, model_version=version, id=_text(head, "id", "request", ""))
    parameters = _parameters(head, "parameters")
    by_default = _flag(parameters, "binary_data_output", "parameters")
    _set_parameters(message.parameters, parameters, "parameters")
    is_base64 = parameters.get(CONTENT_TYPE) == BASE64
    inputs = _Inputs(body, end, cut.data, is_base64)
    for i, given in enumerate(_objects(head, "inputs")):
        inputs.add(i, given, message)
    if inputs.position != len(body):
        left = len(body) - inputs.position
        raise InvalidInput("request", f"{left} bytes follow the binary data that binary_data_size announces")
    by_output = {}
    for i, given in enumerate(_objects(head, "outputs")):
        field = f"outputs[{i}]"
        output = message.outputs.add(name=_text(given, "name", field))
        own = _parameters(given, f"{field}.parameters")
        if REGION in own:
            raise InvalidInput(f"{field}.parameters", "shared memory is offered by gRPC only")
        if "binary_data" in own:
            by_output[output.name] = _flag(own, "binary_data", f"{field}.parameters")
        _set_parameters(output.parameters, own, f"{field}.parameters")
    request = InferRequest(message, inputs.raw, {}, len(body), inputs.written)
    return request, Asked(by_default, by_output)


class _Inputs:
    """The inputs of a request.

    Args:
        body: The whole body.
        position: Where binary data begins.
        spans: Where the data of inputs is.
        is_base64: Strings of all inputs are base64.

    Attributes:
        raw: The binary data of each input; None for those whose data is in JSON.
        written: The data in JSON, by the input's index.
        position: Where the binary data that is used so far ends.
    """

    def __init__(self, body: bytes | bytearray, position: int, spans: Sequence[Span], is_base64: bool) -> None:
        self._body = body
        self._view = memoryview(body)
        self._spans = spans
        self._is_base64 = is_base64
        self.position = position
        self.raw: list[memoryview | None] = []
        self.written: dict[int, Written] = {}

    def add(self, index: int, given: Mapping[str, Any], message: pb.ModelInferRequest) -> None:
        """Add the next input to a message."""
        field = f"inputs[{index}]"
        name, datatype = _text(given, "name", field), _text(given, "datatype", field)
        tensor = message.inputs.add(name=name, datatype=datatype, shape=_shape(given, field))
        parameters = _parameters(given, f"{field}.parameters")
        if REGION in parameters:
            raise InvalidInput(f"{field}.parameters", "shared memory is offered by gRPC only")
        size, data = parameters.pop("binary_data_size", None), given.get("data")
        if (size is None) == (data is None):
            both = "both data and the parameter binary_data_size" if data is not None else "no data"
            raise InvalidInput(f"inputs[{name[:64]!r}]", f"has {both}; give one of them")
        if size is None:
            is_base64 = parameters.pop(CONTENT_TYPE, BASE64 if self._is_base64 else None) == BASE64
            self.raw.append(None)
            # Where a key is written with escapes, it holds what its caller wrote.
            if not isinstance(data, int) or isinstance(data, bool) or not 0 <= data < len(self._spans):
                raise InvalidInput(f"inputs[{name[:64]!r}]", "data must be an array, under a key without escapes")
            self.written[index] = JsonData(self._body, self._spans[data], f"inputs[{name[:64]!r}].data", is_base64)
        else:
            self.raw.append(self._next(size, name))
        _set_parameters(tensor.parameters, parameters, f"{field}.parameters")

    def _next(self, size: object, name: str) -> memoryview:
        """Return the next `size` bytes of binary data."""
        field, left = f"inputs[{name[:64]!r}].parameters['binary_data_size']", len(self._body) - self.position
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InvalidInput(field, "must be a whole number of 0 or more")
        if size > left:
            raise InvalidInput(field, f"{size} bytes, and {left} are left in the body")
        self.position += size
        return self._view[self.position - size : self.position]


def _object(value: object, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(field, "must be a JSON object")
    return value


def _objects(head: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    """Return a list of objects; none if it is not there."""
    values = head.get(field)
    if values is None:
        return []
    if not isinstance(values, list):
        raise InvalidInput(field, "must be an array")
    if len(values) > _MOST_TENSORS:
        raise InvalidInput(field, f"{len(values)} are given, more than {_MOST_TENSORS}")
    return [_object(value, f"{field}[{i}]") for i, value in enumerate(values)]


def _text(given: Mapping[str, Any], key: str, field: str, default: str | None = None) -> str:
    value = given.get(key)
    value = default if value is None else value
    if not isinstance(value, str):
        raise InvalidInput(field, f"{key} must be a string" if key in given else f"{key} is missing")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidInput(field, f"{key} has half of a surrogate pair") from None
    if size > _LONGEST_NAME:
        raise InvalidInput(field, f"{key} has {size} bytes, more than {_LONGEST_NAME}. Send a shorter one")
    return value


def _shape(given: Mapping[str, Any], field: str) -> list[int]:
    shape = given.get("shape")
    if not isinstance(shape, list) or not set(map(type, shape)) <= {int}:
        raise InvalidInput(f"{field}.shape", "must be an array of whole numbers")
    if shape and not _INT64[0] <= min(shape) <= max(shape) <= _INT64[1]:
        raise InvalidInput(f"{field}.shape", "a size is not one of 64 bits")
    return shape


def _parameters(given: Mapping[str, Any], field: str) -> dict[str, Any]:
    parameters = given.get("parameters")
    return {} if parameters is None else _object(parameters, field)


def _flag(parameters: dict[str, Any], key: str, field: str) -> bool:
    """Remove and return a parameter that is a bool; False if it is not there."""
    value = parameters.pop(key, False)
    if not isinstance(value, bool):
        raise InvalidInput(f"{field}[{key!r}]", "must be a bool")
    return value


def _set_parameters(into: Any, given: Mapping[str, Any], field: str) -> None:
    """Set parameters of a message. Arrays and objects have no meaning here, as other unknown parameters."""
    for key, value in given.items():
        try:
            key.encode()
        except UnicodeEncodeError:
            raise InvalidInput(field, "a name has half of a surrogate pair") from None
        if isinstance(value, bool):
            into[key].bool_param = value
        elif isinstance(value, int):
            if not _INT64[0] <= value <= _MAX_UINT64:
                raise InvalidInput(f"{field}[{key[:64]!r}]", "is not a number of 64 bits")
            if value > _INT64[1]:
                into[key].uint64_param = value
            else:
                into[key].int64_param = value
        elif isinstance(value, float):
            into[key].double_param = value
        elif isinstance(value, str):
            _set_text(into, key, value, field)


def _set_text(into: Any, key: str, value: str, field: str) -> None:
    try:
        into[key].string_param = value
    except ValueError:
        raise InvalidInput(f"{field}[{key[:64]!r}]", "has half of a surrogate pair") from None
