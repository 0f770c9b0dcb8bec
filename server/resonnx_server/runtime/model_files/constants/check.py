"""Bounds the constants of an ONNX graph: ONNX Runtime computes nodes of constants when it opens a file, of any size."""

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, Final, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime import wire
from resonnx_server.runtime.model_files.constants.rules import MOST_VALUES, Constant, made

# Elements that nodes of constants may add, all together: 1 GiB of 8 bytes each.
MAX_ELEMENTS: Final = 1 << 27
# A second or two of reading; ResNet-152 has 10,000.
_MAX_FIELDS: Final = 1_000_000
# Of graphs inside of nodes; protobuf reads 100 messages deep, and each takes three.
_MAX_DEPTH: Final = 33
# The longest form of values that are kept, in bytes.
_LONGEST: Final = 10 * MOST_VALUES

# Fields of onnx.proto. ModelProto, FunctionProto, GraphProto, NodeProto, AttributeProto, TensorProto:
_GRAPH, _FUNCTION, _FUNCTION_NODE = 7, 25, 7
_NODE, _INITIALIZER = 1, 5
_TAKEN, _GIVEN, _NODE_NAME, _OPERATOR, _ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_NAME, _INT, _TENSOR, _SUBGRAPH, _INTS, _SUBGRAPHS = 1, 3, 5, 6, 8, 11
_DIMS, _DATA_TYPE, _FLOATS, _INT32S, _INT64S, _TENSOR_NAME, _RAW_DATA, _DOUBLES = 1, 2, 4, 5, 7, 8, 9, 10
# Their wire types.
_MESSAGE: Final = frozenset((wire.BYTES,))
_INTEGERS: Final = frozenset((wire.BYTES, wire.VARINT))
_NODE_KINDS: Final = dict.fromkeys((_TAKEN, _GIVEN, _NODE_NAME, _OPERATOR, _ATTRIBUTE), _MESSAGE)
_ATTRIBUTE_KINDS: Final = {
    **dict.fromkeys((_ATTRIBUTE_NAME, _TENSOR, _SUBGRAPH, _SUBGRAPHS), _MESSAGE),
    **{_INT: frozenset((wire.VARINT,)), _INTS: _INTEGERS},
}
_TENSOR_KINDS: Final = {
    **dict.fromkeys((_TENSOR_NAME, _RAW_DATA), _MESSAGE),
    **dict.fromkeys((_DIMS, _INT32S, _INT64S), _INTEGERS),
    _DATA_TYPE: frozenset((wire.VARINT,)),
    _FLOATS: frozenset((wire.BYTES, wire.FIXED32)),
    _DOUBLES: frozenset((wire.BYTES, wire.FIXED64)),
}
# By TensorProto.DataType: the type of raw data, and the field of others.
_TYPES: Final[Mapping[int, str]] = {1: "<f4", 6: "<i4", 7: "<i8", 11: "<f8"}
_STORED: Final[Mapping[int, int]] = {1: _FLOATS, 6: _INT32S, 7: _INT64S, 11: _DOUBLES}


class _Node(NamedTuple):
    name: str
    operator: str
    taken: Sequence[bytes]
    given: Sequence[bytes]
    attributes: Mapping[str, Any]
    graphs: Sequence[bytes | memoryview]


_Scope = ChainMap[bytes, Constant]


def check_constants(model: bytes) -> None:
    """Check what an ONNX file's nodes of constants add: ConstantOfShape, Expand, Tile, Range, and broadcasts.

    Args:
        model: The file's content, without external data.

    Raises:
        ModelRefused: They add more than MAX_ELEMENTS; or the file does not parse, or has more fields than any network.
    """
    try:
        _Counter().model(memoryview(model))
    except (DecodeError, ValueError) as error:
        raise ModelRefused(f"the ONNX file is damaged: {error}") from None


class _Counter:
    def __init__(self) -> None:
        self._fields = self._added = 0

    def model(self, model: memoryview) -> None:
        # Protobuf merges the messages of a field that is there twice, which is to join their contents.
        parts = [*self._parts(model, {_GRAPH: _MESSAGE, _FUNCTION: _MESSAGE})]
        self._graph(_joined_messages(content for number, content in parts if number == _GRAPH), ChainMap(), 0)
        for number, content in parts:
            if number == _FUNCTION:
                nodes = [each for _, each in self._parts(content, {_FUNCTION_NODE: _MESSAGE})]
                self._nodes(map(self._node, nodes), ChainMap(), 0)

    def _parts(self, message: memoryview, kinds: Mapping[int, Set[int]]) -> Iterator[tuple[int, memoryview]]:
        """Yield the numbers and contents of fields that have one of their wire types; protobuf ignores others.

        Raises ModelRefused above _MAX_FIELDS in a file.
        """
        for field in wire.fields(message):
            self._fields += 1
            if self._fields > _MAX_FIELDS:
                raise ModelRefused(f"the ONNX file has more than {_MAX_FIELDS} fields")
            if field.kind in kinds.get(field.number, ()):
                yield field.number, message[field.content : field.end]

    def _graph(self, graph: memoryview, scope: _Scope, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ModelRefused(f"the ONNX file nests graphs deeper than {_MAX_DEPTH}")
        nodes = []
        for number, content in self._parts(graph, {_NODE: _MESSAGE, _INITIALIZER: _MESSAGE}):
            if number == _INITIALIZER:
                name, constant = self._tensor(content)
                scope[name] = constant
            else:
                nodes.append(self._node(content))
        self._nodes(nodes, scope, depth)

    def _nodes(self, nodes: Iterable[_Node], scope: _Scope, depth: int) -> None:
        """Compute nodes whose inputs are known, in any order of the file; then the graphs inside of nodes."""
        graphs: list[bytes | memoryview] = []
        waiting: dict[bytes, list[tuple[_Node, set[bytes]]]] = {}
        ready: list[_Node] = []
        for node in nodes:
            graphs += node.graphs
            missing = {name for name in node.taken if name not in scope}
            for name in missing:
                waiting.setdefault(name, []).append((node, missing))
            if not missing:
                ready.append(node)
        while ready:
            node = ready.pop()
            inputs = [scope[name] for name in node.taken]
            found = made(node.operator, inputs, node.attributes)
            if found is None or not node.given or node.given[0] in scope.maps[0]:
                continue
            scope[node.given[0]] = found
            if node.operator != "Constant" and found.elements > sum(each.elements for each in inputs):
                self._count(found, node.operator, node.name or str(node.given[0], "utf-8", "replace"))
            for other, missing in waiting.pop(node.given[0], ()):
                missing.discard(node.given[0])
                if not missing:
                    ready.append(other)
        for graph in graphs:
            self._graph(memoryview(graph), scope.new_child(), depth + 1)

    def _node(self, node: memoryview) -> _Node:
        texts: dict[int, list[bytes]] = {number: [] for number in (_TAKEN, _GIVEN, _NODE_NAME, _OPERATOR)}
        attributes: dict[str, Any] = {}
        graphs: list[bytes | memoryview] = []
        for number, content in self._parts(node, _NODE_KINDS):
            if number == _ATTRIBUTE:
                attributes.update([self._attribute(content, graphs)])
            else:
                texts[number].append(bytes(content))
        while texts[_TAKEN] and not texts[_TAKEN][-1]:
            # An input that is left out.
            texts[_TAKEN].pop()
        name, operator = (str(b"".join(texts[number][-1:]), "utf-8", "replace") for number in (_NODE_NAME, _OPERATOR))
        return _Node(name, operator, texts[_TAKEN], texts[_GIVEN], attributes, graphs)

    def _count(self, made: Constant, operator: str, name: str) -> None:
        self._added += made.elements
        if self._added > MAX_ELEMENTS:
            raise ModelRefused(
                f"node {name[:200]!r} ({operator}) makes a constant of shape {list(made.shape)} when the file is "
                f"opened: nodes of constants may add {MAX_ELEMENTS} elements, with it they add {self._added}"
            )

    def _attribute(self, attribute: memoryview, graphs: list[bytes | memoryview]) -> tuple[str, Any]:
        """Return the name and value of a tensor or of integers; append graphs."""
        name, integers = "", list[int]()
        tensors: list[memoryview] = []
        own: list[memoryview] = []
        for number, content in self._parts(attribute, _ATTRIBUTE_KINDS):
            if number == _ATTRIBUTE_NAME:
                name = str(content, "utf-8", "replace")
            elif number == _TENSOR:
                tensors.append(content)
            elif number == _SUBGRAPH:
                own.append(content)
            elif number == _SUBGRAPHS:
                graphs.append(content)
            elif len(integers) <= MOST_VALUES:
                integers += _integers(content[: _LONGEST + 1])
        if own:
            graphs.append(_joined_messages(own))
        if tensors:
            return name, self._tensor(_joined_messages(tensors))[1]
        return name, np.array(integers, np.int64) if 0 < len(integers) <= MOST_VALUES else None

    def _tensor(self, tensor: memoryview) -> tuple[bytes, Constant]:
        name, dims, kind = b"", list[int](), 0
        data: dict[int, bytes] = {}
        for number, content in self._parts(tensor, _TENSOR_KINDS):
            if number == _TENSOR_NAME:
                name = bytes(content)
            elif number == _DIMS:
                dims += _integers(content[: _LONGEST + 1])
                if len(dims) > MOST_VALUES:
                    raise ModelRefused(f"a tensor of the ONNX file has more than {MOST_VALUES} axes")
            elif number == _DATA_TYPE:
                kind = wire.varint(content)
            elif number == _RAW_DATA:
                data[number] = bytes(content[: _LONGEST + 1])
            elif len(data.get(number, b"")) <= _LONGEST:
                data[number] = data.get(number, b"") + bytes(content[: _LONGEST + 1])
        constant = Constant(tuple(dims))
        if kind not in _TYPES or constant.elements > MOST_VALUES:
            return name, constant
        stored, element = _STORED[kind], np.dtype(_TYPES[kind])
        if raw := data.get(_RAW_DATA, data.get(stored, b"") if stored in (_FLOATS, _DOUBLES) else b""):
            values = np.frombuffer(raw[: len(raw) // element.itemsize * element.itemsize], element)
        else:
            values = np.array(_integers(memoryview(data.get(stored, b""))), np.int64).astype(element)
        return name, Constant(constant.shape, values) if len(values) == constant.elements else constant


def _joined_messages(messages: Iterable[memoryview]) -> memoryview:
    first, *others = [*messages] or [memoryview(b"")]
    return memoryview(b"".join([first, *others])) if others else first


def _integers(content: memoryview) -> list[int]:
    """Return the numbers of a field, packed or one alone."""
    packed = np.frombuffer(content, np.uint8) if len(content) else np.empty(0, np.uint8)
    return [int(value) for value in wire.varints(packed).astype(np.int64)]
