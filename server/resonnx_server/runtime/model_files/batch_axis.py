"""Frees the first axis of a graph's inputs and outputs from its size in the ONNX file."""

from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
from typing import Final

import numpy as np
from google.protobuf.message import DecodeError

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime import wire

# Fields of onnx.proto. ModelProto, GraphProto, ValueInfoProto, TypeProto, Tensor, TensorShapeProto, Dimension:
_GRAPH: Final = 7
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _VALUE_INFO = 1, 5, 11, 12, 13
_VALUE_NAME, _TYPE = 1, 2
_TENSOR_TYPE: Final = 1
_SHAPE: Final = 2
_DIM: Final = 1
_DIM_PARAM: Final = 2
# NodeProto, AttributeProto, TensorProto:
_TAKEN, _GIVEN, _OPERATOR, _ATTRIBUTE = 1, 2, 4, 5
_TENSOR: Final = 5
_INT64_DATA, _TENSOR_NAME, _RAW_DATA = 7, 8, 9

_BATCH: Final = b"batch"
# A second or two of reading; ResNet-152 has 10,000.
_MAX_FIELDS: Final = 1_000_000
# The fields that are read as messages, by the kind of message.
_CHILDREN: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {_GRAPH: "graph"},
    "graph": {_NODE: "node", _INITIALIZER: "constant", _INPUT: "value", _OUTPUT: "value"},
    "node": {_ATTRIBUTE: "attribute"},
    "attribute": {_TENSOR: "constant"},
    "value": {_TYPE: "type"},
    "type": {_TENSOR_TYPE: "tensor"},
    "tensor": {_SHAPE: "shape"},
}
# The largest shape that is read, in bytes: 16 axes.
_LONGEST_SHAPE: Final = 128

# Returns the new content of a field of bytes; None leaves it as it is.
_Change = Callable[[memoryview], bytes | None]


def with_free_batch(model: bytes, names: Set[str], size: int | None = None) -> bytes:
    """Return an ONNX file in which axis 0 of the inputs and outputs `names` is symbolic.

    Known shapes of inner tensors are left out: they would contradict it.

    Args:
        model: The file's content, without external data.
        names: Names of inputs and outputs.
        size: If given, a `Reshape` of a computed tensor to a constant shape that begins with this size keeps the
            tensor's own axis 0 instead. Exporters fix shapes so. Whether the graph still means the same must be tried.

    Raises:
        ModelRefused: The file does not parse, or has more fields than any network.
    """
    try:
        _count(memoryview(model))
        return _with_free_batch(model, names, size)
    except DecodeError as error:
        raise ModelRefused(f"the ONNX file is damaged: {error}") from None


def _count(message: memoryview, kind: str = "model", count: int = 0) -> int:
    """Return `count` and the number of fields that will be read. Raises ModelRefused above _MAX_FIELDS."""
    children = _CHILDREN.get(kind, {})
    for field in wire.fields(message):
        count += 1
        if count > _MAX_FIELDS:
            raise ModelRefused(f"the ONNX file has more than {_MAX_FIELDS} fields")
        if field.kind == wire.BYTES and field.number in children:
            count = _count(message[field.content : field.end], children[field.number], count)
    return count


def _with_free_batch(model: bytes, names: Set[str], size: int | None) -> bytes:
    wanted = {name.encode() for name in names}

    def value(message: memoryview) -> bytes | None:
        if _text(message, _VALUE_NAME) not in wanted:
            return None
        return _changed(message, {_TYPE: lambda kind: _changed(kind, {_TENSOR_TYPE: tensor})})

    def tensor(message: memoryview) -> bytes:
        return _changed(message, {_SHAPE: _free_first})

    def graph(message: memoryview) -> bytes:
        changes: dict[int, _Change] = {_INPUT: value, _OUTPUT: value}
        if size is not None:
            shapes = _fixed_shapes(message, size)
            changes[_INITIALIZER] = lambda each: _keeping(each) if _text(each, _TENSOR_NAME) in shapes else None
            changes[_NODE] = partial(_with_shapes, shapes=shapes)
        return _changed(message, changes, dropped=_VALUE_INFO)

    return _changed(memoryview(model), {_GRAPH: graph})


def _free_first(shape: memoryview) -> bytes:
    dimensions = [bytes(shape[field.start : field.end]) for field in wire.fields(shape) if field.number == _DIM]
    free = wire.opening(_DIM_PARAM, len(_BATCH)) + _BATCH
    return b"".join([wire.opening(_DIM, len(free)), free, *dimensions[1:]])


def _fixed_shapes(graph: memoryview, size: int) -> set[bytes]:
    """Return the names of constants that are only used as shapes, of computed tensors, and begin with `size`."""
    constants: set[bytes] = set()
    found, elsewhere, shaped = set(), set(), []
    for field in wire.fields(graph):
        message = graph[field.content : field.end]
        if field.number == _INITIALIZER:
            constants.add(_text(message, _TENSOR_NAME))
            if _begins(message, size):
                found.add(_text(message, _TENSOR_NAME))
        elif field.number == _NODE:
            operator, taken = _text(message, _OPERATOR), list(_texts(message, _TAKEN))
            if operator == b"Reshape" and len(taken) == 2:
                shaped.append(taken)
            else:
                elsewhere.update(taken)
            if operator == b"Constant":
                constants.add(_text(message, _GIVEN))
                tensors = (tensor for a in _messages(message, _ATTRIBUTE) for tensor in _messages(a, _TENSOR))
                if any(_begins(tensor, size) for tensor in tensors):
                    found.add(_text(message, _GIVEN))
    for data, shape in shaped:
        elsewhere.add(data)
        if data in constants:
            elsewhere.add(shape)
    return found - elsewhere


def _with_shapes(node: memoryview, shapes: Set[bytes]) -> bytes | None:
    """Return a node that makes or uses one of the changed shapes."""
    operator = _text(node, _OPERATOR)
    if operator == b"Constant" and _text(node, _GIVEN) in shapes:
        return _changed(node, {_ATTRIBUTE: lambda attribute: _changed(attribute, {_TENSOR: _keeping})})
    if operator == b"Reshape" and shapes & {*_texts(node, _TAKEN)}:
        # Without its only attribute, allowzero, which takes away the meaning of 0.
        return _changed(node, {}, dropped=_ATTRIBUTE)
    return None


def _shape(tensor: memoryview) -> list[int]:
    """Return the elements of a constant if it may be a shape; otherwise nothing."""
    raw = b"".join(_texts(tensor, _RAW_DATA, _LONGEST_SHAPE))
    packed = np.frombuffer(b"".join(_texts(tensor, _INT64_DATA, _LONGEST_SHAPE)), np.uint8)
    if raw and len(raw) % 8 == 0:
        return [*map(int, np.frombuffer(raw, "<i8"))]
    return [*map(int, wire.varints(packed).astype(np.int64))] if len(packed) else []


def _begins(tensor: memoryview, size: int) -> bool:
    shape = _shape(tensor)
    return shape[:1] == [size] and 0 not in shape


def _keeping(tensor: memoryview) -> bytes:
    """Return the tensor of a shape with 0, an input's own size, as its first element."""
    raw = np.array([0, *_shape(tensor)[1:]], "<i8").tobytes()
    rest = [
        tensor[field.start : field.end] for field in wire.fields(tensor) if field.number not in (_RAW_DATA, _INT64_DATA)
    ]
    return b"".join([*rest, wire.opening(_RAW_DATA, len(raw)), raw])


def _messages(message: memoryview, number: int, longest: int | None = None) -> Iterator[memoryview]:
    for field in wire.fields(message):
        content = message[field.content : field.end]
        if field.number == number and field.kind == wire.BYTES and (longest is None or len(content) <= longest):
            yield content


def _texts(message: memoryview, number: int, longest: int | None = None) -> Iterator[bytes]:
    return map(bytes, _messages(message, number, longest))


def _text(message: memoryview, number: int) -> bytes:
    """Return the first field of this number; empty if there is none."""
    return next(_texts(message, number), b"")


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
