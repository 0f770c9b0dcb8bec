"""Opens ONNX Runtime's sessions without holding the GIL for as long as it takes to copy a model's weights.

ONNX Runtime parses a file with the GIL held, which holds up all calls of a server: for 30 ms and more of 94 MB. So it
is given a file of some kilobytes that refers to the weights as external data, and these in memory, where they are: it
copies them later, without the GIL.
"""

import logging
from typing import Any, Final

import onnxruntime as ort
from google.protobuf.message import DecodeError

from resonnx_server.runtime import wire

_log = logging.getLogger(__name__)

# Fields of onnx.proto: ModelProto, GraphProto, TensorProto, StringStringEntryProto.
_GRAPH: Final = 7
_INITIALIZER: Final = 5
_DATA_TYPE: Final = 2
_RAW_DATA: Final = 9
_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_KEY, _VALUE = 1, 2
# data_location: EXTERNAL, with its tag.
_IS_EXTERNAL: Final = bytes([_DATA_LOCATION << 3 | wire.VARINT, 1])
# Dims, data type, name, raw data, documentation. A tensor with other fields, as segments, stays as it is.
_PLAIN: Final = frozenset({1, _DATA_TYPE, 8, _RAW_DATA, 12})
# Types of weights: FLOAT, UINT8, INT8, FLOAT16, BFLOAT16. Integers may be shapes, which must be known at once.
_WEIGHTS: Final = frozenset({1, 2, 3, 10, 16})
# Smaller tensors are not worth it.
LEAST_BYTES: Final = 64 << 10
# What the references name.
_LOCATION: Final = "weights"
# ONNX Runtime 1.24, of onnxruntime-openvino, holds the GIL for all of an opening with weights apart: 400 ms for 100 MB,
# and 120 ms with the whole file. 1.31 is the oldest of the others.
FREES_GIL: Final = tuple(map(int, ort.__version__.split(".")[:2])) >= (1, 31)


def open_session(model: bytes, options: ort.SessionOptions, providers: Any, *, apart: bool) -> ort.InferenceSession:
    """Return a session of an ONNX file without external data.

    Args:
        model: The file.
        options: Its options.
        providers: Its providers; None for those of the options.
        apart: Give ONNX Runtime the weights apart where that frees the GIL; if it fails so, the whole file.

    Raises:
        Exception: ONNX Runtime's exceptions, which share no base class.
    """
    small = without_weights(model) if apart and FREES_GIL else None
    if small is not None:
        options.add_external_initializers_from_files_in_memory([_LOCATION], [model], [len(model)])
        try:
            return ort.InferenceSession(small, options, providers=providers, enable_fallback=0)
        except Exception as error:  # they share no base class
            # Faults of the file itself are raised below.
            _log.debug("a file is opened as a whole", extra={"error": str(error)})
    # The fall-back to other providers would print to stdout and drop the reason.
    return ort.InferenceSession(model, options, providers=providers, enable_fallback=0)


def without_weights(model: bytes | memoryview) -> bytes | None:
    """Return an ONNX file whose large weights are external data: ranges of `model` itself; None if it has none."""
    message = memoryview(model)
    try:
        graphs = [field for field in wire.fields(message) if field.number == _GRAPH and field.kind == wire.BYTES]
        if len(graphs) != 1:
            return None
        (graph,) = graphs
        pieces = _graph(message[graph.content : graph.end], graph.content)
    except DecodeError:
        return None
    if pieces is None:
        return None
    size = sum(map(len, pieces))
    return b"".join([message[: graph.start], wire.opening(_GRAPH, size), *pieces, message[graph.end :]])


def _graph(graph: memoryview, position: int) -> list[bytes | memoryview] | None:
    """Return a graph with references, in pieces; None if it stays as it is."""
    pieces: list[bytes | memoryview] = []
    kept = 0
    for field in wire.fields(graph):
        if field.number != _INITIALIZER or field.kind != wire.BYTES or field.end - field.content < LEAST_BYTES:
            continue
        tensor = _reference(graph[field.content : field.end], position + field.content)
        if tensor is not None:
            pieces += [graph[kept : field.start], wire.opening(_INITIALIZER, len(tensor)), tensor]
            kept = field.end
    return [*pieces, graph[kept:]] if kept else None


def _reference(tensor: memoryview, position: int) -> bytes | None:
    """Return a tensor that refers to its data, given its position in the file; None if it stays as it is."""
    rest: list[bytes | memoryview] = []
    data: list[wire.Field] = []
    kind = 0
    for field in wire.fields(tensor):
        if field.number not in _PLAIN:
            return None
        if field.number == _RAW_DATA:
            data.append(field)
            continue
        if field.number == _DATA_TYPE:
            kind = wire.varint(tensor[field.content : field.end])
        rest.append(tensor[field.start : field.end])
    if kind not in _WEIGHTS or len(data) != 1 or data[0].end - data[0].content < LEAST_BYTES:
        return None
    start, size = position + data[0].content, data[0].end - data[0].content
    entries = [_entry("location", _LOCATION), _entry("offset", str(start)), _entry("length", str(size))]
    return b"".join([*rest, *entries, _IS_EXTERNAL])


def _entry(key: str, value: str) -> bytes:
    content = b"".join(
        wire.opening(number, len(text)) + text.encode() for number, text in ((_KEY, key), (_VALUE, value))
    )
    return wire.opening(_EXTERNAL_DATA, len(content)) + content
