"""Lets the sessions of one graph share its weights: it is optimised once, and each session opens the result.

On the CPU, ONNX Runtime copies the weights of convolutions into blocks of channels that suit the processor, for each
session anew. In a graph that was saved after that, sessions read them where they are.
"""

import logging
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from google.protobuf.message import DecodeError

from resonnx_server.runtime import wire
from resonnx_server.runtime.model_files.weights_apart import LEAST_BYTES, open_session, without_weights

_log = logging.getLogger(__name__)

# Fields of onnx.proto: ModelProto; GraphProto; NodeProto; TensorProto.
_GRAPH: Final = 7
_NODE, _INITIALIZER = 1, 5
_INPUT, _DOMAIN = 1, 7
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9
_FLOAT: Final = 1
# Of the operators that read their weights in place. Others pack theirs for each session anew.
_IN_PLACE: Final = b"com.microsoft.nchwc"
# Of a weight in memory: a processor's cache line.
_ALIGNED: Final = 64


@dataclass(frozen=True)
class SharedGraph:
    """An optimised graph.

    Attributes:
        small: The ONNX file without its large weights.
        weights: Those by name, as ort.OrtValue; they must live as long as the sessions.
        in_place: Names of those that sessions read in place.
    """

    small: bytes
    weights: dict[str, Any]
    in_place: frozenset[str]

    @classmethod
    def of(cls, model: bytes, options: Callable[[], ort.SessionOptions], providers: Any) -> "SharedGraph | None":
        """Optimise an ONNX file, and try a session of the result.

        Args:
            model: The file.
            options: Makes options of sessions.
            providers: The CPU.

        Returns:
            None if sessions cannot share its weights, or one of the two cannot be opened.
        """
        # The graphs of decoders have no convolutions.
        if b"Conv" not in (without_weights(model) or b""):
            return None
        try:
            shared = cls._of_optimised(_optimised(model, options(), providers))
            if shared is not None:
                shared.open(options(), providers)
        except Exception as error:  # ONNX Runtime's errors share no base class
            _log.debug("weights are not shared", extra={"error": str(error)})
            return None
        return shared

    @classmethod
    def _of_optimised(cls, optimised: memoryview) -> "SharedGraph | None":
        small = without_weights(optimised)
        if small is None:
            return None
        large = {name: (data, shape) for name, data, shape in _weights(optimised)}
        in_place = _read_in_place(memoryview(small)) & large.keys()
        return cls(small, _copied(large), frozenset(in_place)) if in_place else None

    def open(self, options: ort.SessionOptions, providers: Any) -> ort.InferenceSession:
        """Return a session. Raises as ONNX Runtime does."""
        # It is optimised; renamed weights would be copied.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_external_initializers([*self.weights], [*self.weights.values()])
        for name in self.in_place:
            options.add_initializer(name, self.weights[name])
        return ort.InferenceSession(self.small, options, providers=providers, enable_fallback=0)


class Sharing:
    """The optimised graph of one file, as long as a session of it is open. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._graph: weakref.ref[SharedGraph] | None = None

    def graph(self, model: bytes, options: Callable[[], ort.SessionOptions], providers: Any) -> SharedGraph | None:
        """Return the graph that open sessions share, or one that is made now; see SharedGraph.of."""
        with self._lock:
            graph = self._graph() if self._graph is not None else None
            if graph is None and (graph := SharedGraph.of(model, options, providers)) is not None:
                self._graph = weakref.ref(graph)
            return graph


def _optimised(model: bytes, options: ort.SessionOptions, providers: Any) -> memoryview:
    """Return the ONNX file of a graph as ONNX Runtime optimises it. Raises anything where no files are in memory.

    It is in the file's own pages, which go with the last view of them: a copy would cost as much as the checksum.
    """
    file = os.memfd_create("optimised", os.MFD_CLOEXEC)
    try:
        options.optimized_model_filepath = f"/proc/self/fd/{file}"
        open_session(model, options, providers, apart=True)
        return memoryview(mmap.mmap(file, 0, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ))
    finally:
        os.close(file)


def _weights(message: memoryview) -> Iterator[tuple[str, memoryview, tuple[int, ...]]]:
    """Yield name, data and shape of the large weights. Raises DecodeError if one is not float32."""
    for tensor in _parts(message, _INITIALIZER):
        fields = {field.number: tensor[field.content : field.end] for field in wire.fields(tensor)}
        data = fields.get(_RAW_DATA, memoryview(b""))
        if len(data) < LEAST_BYTES:
            continue
        if wire.varint(fields[_DATA_TYPE]) != _FLOAT:
            raise DecodeError("a weight is not float32")
        yield bytes(fields[_NAME]).decode(), data, _shape(tensor)


def _shape(tensor: memoryview) -> tuple[int, ...]:
    shape: list[int] = []
    for field in wire.fields(tensor):
        if field.number == _DIMS:
            content = tensor[field.content : field.end]
            # Packed or not, as the writer likes.
            packed = field.kind == wire.BYTES
            shape += wire.varints(np.frombuffer(content, np.uint8)).tolist() if packed else [wire.varint(content)]
    return tuple(shape)


def _read_in_place(message: memoryview) -> set[str]:
    """Return the names of what the operators take that read their weights in place."""
    return {
        bytes(taken).decode()
        for node in _parts(message, _NODE)
        if any(bytes(domain) == _IN_PLACE for domain in _contents(node, _DOMAIN))
        for taken in _contents(node, _INPUT)
    }


def _copied(weights: dict[str, tuple[memoryview, tuple[int, ...]]]) -> dict[str, Any]:
    """Return copies of weights, aligned, in one piece of memory."""
    sizes = [-(-len(data) // _ALIGNED) * _ALIGNED for data, _ in weights.values()]
    memory: npt.NDArray[np.uint8] = np.empty(sum(sizes) + _ALIGNED, np.uint8)
    start = -memory.ctypes.data % _ALIGNED
    copies = {}
    for (name, (data, shape)), size in zip(weights.items(), sizes, strict=True):
        part = memory[start : start + len(data)]
        part[:] = np.frombuffer(data, np.uint8)
        copies[name] = ort.OrtValue.ortvalue_from_numpy(part.view("<f4").reshape(shape))
        start += size
    return copies


def _parts(message: memoryview, number: int) -> Iterator[memoryview]:
    for graph in _contents(message, _GRAPH):
        yield from _contents(graph, number)


def _contents(message: memoryview, number: int) -> Iterator[memoryview]:
    """Yield the contents of a message's fields of bytes with this number."""
    for field in wire.fields(message):
        if field.number == number and field.kind == wire.BYTES:
            yield message[field.content : field.end]
