"""Frees the first axis of a graph's inputs and outputs from its size in the ONNX file."""

from collections.abc import Callable, Set
from typing import Final

from resonnx_server.runtime import wire

# Fields of onnx.proto on the way to the first dimension: ModelProto.graph; GraphProto.input, output and value_info;
# ValueInfoProto.name and type; TypeProto.tensor_type; Tensor.shape; TensorShapeProto.dim; Dimension.dim_param.
_GRAPH: Final = 7
_INPUT, _OUTPUT, _VALUE_INFO = 11, 12, 13
_NAME, _TYPE = 1, 2
_TENSOR_TYPE: Final = 1
_SHAPE: Final = 2
_DIM: Final = 1
_DIM_PARAM: Final = 2
_BATCH: Final = b"batch"

# Returns the new content of a field of bytes; None leaves it as it is.
_Change = Callable[[memoryview], bytes | None]


def with_free_batch(model: bytes, names: Set[str]) -> bytes:
    """Return an ONNX file in which axis 0 of the inputs and outputs `names` is symbolic.

    Known shapes of inner tensors are left out: they would contradict it.

    Raises:
        DecodeError: The file does not parse.
    """
    wanted = {name.encode() for name in names}

    def value(message: memoryview) -> bytes | None:
        name = next((bytes(message[f.content : f.end]) for f in wire.fields(message) if f.number == _NAME), b"")
        if name not in wanted:
            return None
        return _changed(message, {_TYPE: lambda kind: _changed(kind, {_TENSOR_TYPE: tensor})})

    def tensor(message: memoryview) -> bytes:
        return _changed(message, {_SHAPE: _free_first})

    def graph(message: memoryview) -> bytes:
        return _changed(message, {_INPUT: value, _OUTPUT: value}, dropped=_VALUE_INFO)

    return _changed(memoryview(model), {_GRAPH: graph})


def _free_first(shape: memoryview) -> bytes:
    dimensions = [bytes(shape[field.start : field.end]) for field in wire.fields(shape) if field.number == _DIM]
    free = wire.opening(_DIM_PARAM, len(_BATCH)) + _BATCH
    return b"".join([wire.opening(_DIM, len(free)), free, *dimensions[1:]])


def _changed(message: memoryview, changes: dict[int, _Change], dropped: int = 0) -> bytes:
    pieces: list[bytes | memoryview] = []
    for field in wire.fields(message):
        if field.number == dropped:
            continue
        change = changes.get(field.number) if field.kind == wire.BYTES else None
        new = None if change is None else change(message[field.content : field.end])
        if new is None:
            pieces.append(message[field.start : field.end])
        else:
            pieces += [wire.opening(field.number, len(new)), new]
    return b"".join(pieces)
