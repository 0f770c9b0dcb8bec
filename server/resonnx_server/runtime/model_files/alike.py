"""Tells whether two ONNX files hold the same graph, with other weights: their batches then take the same time."""

import hashlib
from typing import Final

from google.protobuf.message import DecodeError

from resonnx_server.runtime import wire

# Fields of onnx.proto: ModelProto, GraphProto, TensorProto.
_OPSETS: Final = 8
_GRAPH: Final = 7
_INITIALIZER: Final = 5
_DATA_TYPE: Final = 2
_FLOAT_DATA: Final = 4
_RAW_DATA: Final = 9
# Smaller tensors may be shapes, axes and bounds.
_LEAST_BYTES: Final = 1024
# Types of weights: FLOAT, UINT8, INT8, FLOAT16, BFLOAT16.
_WEIGHTS: Final = frozenset({1, 2, 3, 10, 16})


def graph_sum(model: bytes) -> str:
    """Return a sum, hex, of an ONNX file without the values of its large weights; a damaged file's is its own."""
    total, message = hashlib.sha256(), memoryview(model)
    try:
        for field in wire.fields(message):
            if field.number == _OPSETS:
                total.update(message[field.start : field.end])
            elif field.number == _GRAPH:
                _add_graph(total, message[field.content : field.end])
    except DecodeError:
        return hashlib.sha256(model).hexdigest()
    return total.hexdigest()


def _add_graph(total: "hashlib._Hash", graph: memoryview) -> None:
    for field in wire.fields(graph):
        content = graph[field.content : field.end]
        if field.number == _INITIALIZER and field.kind == wire.BYTES and len(content) >= _LEAST_BYTES:
            total.update(b"weights")
            for part in wire.fields(content):
                if not (part.number in (_RAW_DATA, _FLOAT_DATA) and _is_weight(content)):
                    total.update(content[part.start : part.end])
        else:
            total.update(graph[field.start : field.end])


def _is_weight(tensor: memoryview) -> bool:
    for field in wire.fields(tensor):
        if field.number == _DATA_TYPE and field.kind == wire.VARINT:
            # All types are below 128.
            return tensor[field.content] in _WEIGHTS
    return False
